//! Pages of keys.

use mongodb_atlas_client::{MAX_NAME_CHARS, fuzz_key_page};

/// Maximum number of results requested per page.
const PAGE_SIZE: usize = 500;

/// Parses bytes as a page of keys, which is parsed or rejected, and parsed data is bounded. Then parses them as a part of
/// one key on an otherwise valid page, which leaves the other keys valid. Returns whether they are a page of keys.
pub fn keys_page(data: &[u8]) -> bool {
    let page = fuzz_key_page(data.to_vec(), PAGE_SIZE);
    if let Ok(page) = &page {
        assert!(page.results <= PAGE_SIZE && page.keys.len() <= page.results);
        assert!(
            page.invalid_items
                .iter()
                .all(|what| what.index < page.results)
        );
        for key in &page.keys {
            assert!(!key.id.as_str().is_empty());
            let attributes = &key.attributes;
            let texts = [
                &key.name,
                &attributes.status,
                &attributes.created_by,
                &key.masked_secret,
            ];
            for text in texts {
                assert!(text.chars().count() <= MAX_NAME_CHARS);
            }
        }
    }
    // A string with these bytes, as a serializer writes it except for unpaired surrogates and invalid UTF-8.
    let mut string = Vec::from(b"\"");
    for byte in data {
        match byte {
            b'"' | b'\\' => string.extend([b'\\', *byte]),
            // Each of these is one escape, a whole or half surrogate pair.
            0x80..=0x9f => string.extend(format!("\\ud8{byte:02x}").as_bytes()),
            0xa0..=0xbf => string.extend(format!("\\udc{byte:02x}").as_bytes()),
            _ => string.push(*byte),
        }
    }
    string.push(b'"');
    assert_round_trip(&string);
    // All values that serde_json accepts. The exporter uses serde_json only for the syntax.
    if serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok() {
        assert_round_trip(data);
    }
    page.is_ok_and(|page| !page.keys.is_empty())
}

/// Asserts that the keys before and after a key with `value` in each field are parsed.
fn assert_round_trip(value: &[u8]) {
    let mut body = br#"{"totalCount":3,"results":[{"apiKeyId":"first"},{"#.to_vec();
    for field in [
        "name",
        "status",
        "groupId",
        "createdAt",
        "lastUsedAt",
        "secret",
        "apiKeyId",
    ] {
        body.extend(format!("\"{field}\":").as_bytes());
        body.extend(value);
        body.push(b',');
    }
    body.extend(br#""end":0},{"apiKeyId":"last"}]}"#);
    let page = fuzz_key_page(body, PAGE_SIZE).expect("a page");
    assert_eq!(page.results, 3);
    assert_eq!(page.keys.first().map(|key| key.id.as_str()), Some("first"));
    assert_eq!(page.keys.last().map(|key| key.id.as_str()), Some("last"));
}
