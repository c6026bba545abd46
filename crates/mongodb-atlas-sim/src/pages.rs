//! Pagination: page parameters, links and the object around a list.

use axum::body::Bytes;
use axum::http::header;
use serde_json::{Value, json};

use crate::faults::Effect;
use crate::request::SimRequest;
use crate::response::SimResponse;

/// The requested page of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageRequest {
    pub(crate) number: u32,
    pub(crate) size: u32,
}

impl PageRequest {
    /// Reads `pageNum` and `itemsPerPage`, and applies [`Effect::PageCap`].
    pub(crate) fn from_request(request: &SimRequest) -> Result<Self, SimResponse> {
        let caps = request.effects.iter().filter_map(|effect| match effect {
            Effect::PageCap { size } => Some(*size),
            _ => None,
        });
        let size = parse_parameter(request, "itemsPerPage", 100, 500)?;
        Ok(Self {
            number: parse_parameter(request, "pageNum", 1, u32::MAX)?,
            size: caps.fold(size, u32::min).max(1),
        })
    }

    /// Returns the index of the page's first item if pages begin every `stride` items.
    pub(crate) fn offset(self, stride: usize) -> usize {
        (self.number as usize - 1).saturating_mul(stride)
    }
}

fn parse_parameter(
    request: &SimRequest,
    name: &str,
    default: u32,
    max: u32,
) -> Result<u32, SimResponse> {
    let Some(text) = request.query(name) else {
        return Ok(default);
    };
    let value = text.parse().ok().filter(|value| (1..=max).contains(value));
    value.ok_or_else(|| {
        let detail = format!("Invalid value for query parameter {name}.");
        SimResponse::bad_request("INVALID_QUERY_PARAMETER", name, &detail)
    })
}

/// Builds the object around a page of `total` items, with the faults that concern it.
pub(crate) fn build_page(
    request: &SimRequest,
    page: PageRequest,
    has_next: bool,
    total: usize,
    results: &[Value],
) -> Value {
    let has_next = has_next && !request.has_effect(&Effect::NoNextLink);
    let links = page_links(request, page, has_next);
    let mut object = json!({"links": links, "results": results, "totalCount": total});
    if let Some(fields) = object.as_object_mut() {
        for effect in &request.effects {
            match effect {
                Effect::NoLinks => drop(fields.remove("links")),
                Effect::NoTotalCount => drop(fields.remove("totalCount")),
                Effect::TotalCount { value } => {
                    fields.insert("totalCount".to_owned(), json!(value));
                }
                _ => {}
            }
        }
    }
    object
}

/// Returns the bytes of [`build_page`] without faults, around items that are serialized already.
pub(crate) fn serialize_page(
    request: &SimRequest,
    page: PageRequest,
    has_next: bool,
    total: usize,
    results: &[u8],
) -> Bytes {
    let links = json!(page_links(request, page, has_next)).to_string();
    let mut bytes = Vec::with_capacity(results.len() + links.len() + 64);
    bytes.extend_from_slice(br#"{"links":"#);
    bytes.extend_from_slice(links.as_bytes());
    bytes.extend_from_slice(br#","results":"#);
    bytes.extend_from_slice(results);
    bytes.extend_from_slice(format!(r#","totalCount":{total}}}"#).as_bytes());
    bytes.into()
}

fn page_links(request: &SimRequest, page: PageRequest, has_next: bool) -> Vec<Value> {
    let host = request.header(header::HOST).unwrap_or("localhost");
    let (path, size) = (request.path(), page.size);
    let link = |number: u32, rel: &str| {
        let href = format!("http://{host}{path}?itemsPerPage={size}&pageNum={number}");
        json!({"href": href, "rel": rel})
    };
    let mut links = vec![link(page.number, "self")];
    if page.number > 1 {
        links.push(link(page.number - 1, "previous"));
    }
    if has_next {
        links.push(link(page.number + 1, "next"));
    }
    links
}
