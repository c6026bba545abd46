//! A request with its endpoint, path ids and faults.

use axum::body::Bytes;
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use url::form_urlencoded;

use crate::endpoint::{PathIds, SimEndpoint};
use crate::faults::Effect;
use crate::model::SimOrg;
use crate::response::SimResponse;
use crate::world::World;

/// A request to the API.
pub(crate) struct SimRequest {
    pub(crate) endpoint: SimEndpoint,
    pub(crate) ids: PathIds,
    pub(crate) parts: Parts,
    pub(crate) body: Bytes,
    /// Faults to apply to the response.
    pub(crate) effects: Vec<Effect>,
}

impl SimRequest {
    pub(crate) fn new(parts: Parts, body: Bytes) -> Self {
        let (endpoint, ids) = SimEndpoint::from_path(parts.uri.path());
        Self {
            endpoint,
            ids,
            parts,
            body,
            effects: Vec::new(),
        }
    }

    pub(crate) fn has_effect(&self, effect: &Effect) -> bool {
        self.effects.contains(effect)
    }

    /// Returns whether faults or parameters may change the content or the format of a list.
    pub(crate) fn changes_list(&self) -> bool {
        let only_delays = self
            .effects
            .iter()
            .all(|effect| matches!(effect, Effect::Delay { .. }));
        !only_delays || self.is_set("pretty") || self.is_set("envelope")
    }

    /// Returns whether a query parameter is `true`.
    pub(crate) fn is_set(&self, parameter: &str) -> bool {
        self.query(parameter).as_deref() == Some("true")
    }

    pub(crate) fn path(&self) -> &str {
        self.parts.uri.path()
    }

    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// Returns the parameters of an `Authorization` header with `scheme`.
    pub(crate) fn authorization(&self, scheme: &str) -> Option<&str> {
        let (actual, parameters) = self.header(header::AUTHORIZATION)?.split_once(' ')?;
        actual
            .eq_ignore_ascii_case(scheme)
            .then_some(parameters.trim())
    }

    /// Returns the organization in the path.
    pub(crate) fn find_org<'a>(&self, world: &'a World) -> Result<&'a SimOrg, SimResponse> {
        let org = self.ids.org.as_deref().and_then(|id| world.org(id));
        org.ok_or_else(|| SimResponse::not_found(self.path()))
    }

    /// Returns a query parameter.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        form_field(self.parts.uri.query()?.as_bytes(), name)
    }
}

/// Returns a field of a form-urlencoded text.
pub(crate) fn form_field(form: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(form)
        .find(|(field, _)| field == name)
        .map(|(_, value)| value.into_owned())
}
