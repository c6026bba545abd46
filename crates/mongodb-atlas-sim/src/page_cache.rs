//! Caches the serialized keys of pages: serializing takes most of the CPU time of a page, and a benchmark of a
//! client must not measure the simulator.

use std::collections::HashMap;
use std::ops::Range;

use axum::body::Bytes;

use crate::endpoint::ApiVersion;

/// Maximum total size of the cached pages: about 180,000 keys. Pages beyond it are serialized for each request.
const MAX_CACHED_BYTES: usize = 64 << 20;

/// Identifies the keys of a page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PageId {
    pub(crate) org: String,
    pub(crate) version: ApiVersion,
    /// Indices of the keys in the organization.
    pub(crate) range: Range<usize>,
}

/// Serialized keys of pages, all of the same revision of the world.
#[derive(Default)]
pub(crate) struct PageCache {
    revision: u64,
    /// Total size of `pages`.
    cached_bytes: usize,
    pages: HashMap<PageId, Bytes>,
}

impl PageCache {
    /// Returns the keys of a page at `revision` of the world, from `serialize` unless they are cached. A new revision
    /// clears the cache.
    pub(crate) fn get_or_insert_with(
        &mut self,
        id: PageId,
        revision: u64,
        serialize: impl FnOnce() -> Bytes,
    ) -> Bytes {
        if revision != self.revision {
            self.pages.clear();
            self.cached_bytes = 0;
            self.revision = revision;
        }
        if let Some(keys) = self.pages.get(&id) {
            return keys.clone();
        }
        let keys = serialize();
        if self.cached_bytes + keys.len() <= MAX_CACHED_BYTES {
            self.cached_bytes += keys.len();
            self.pages.insert(id, keys.clone());
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_id(start: usize) -> PageId {
        PageId {
            org: "org".to_owned(),
            version: ApiVersion::Preview,
            range: start..start + 1,
        }
    }

    #[test]
    fn cache_serializes_again_only_after_a_new_revision() {
        let mut cache = PageCache::default();
        let mut get = |revision, text: &'static str| {
            cache.get_or_insert_with(page_id(0), revision, || Bytes::from_static(text.as_bytes()))
        };
        assert_eq!(get(1, "first"), "first");
        assert_eq!(get(1, "unused"), "first");
        assert_eq!(get(2, "second"), "second");
    }

    #[test]
    fn cache_stays_below_its_maximum_size() {
        let mut cache = PageCache::default();
        let page = Bytes::from(vec![b' '; MAX_CACHED_BYTES / 4]);
        for start in 0..10 {
            let keys = cache.get_or_insert_with(page_id(start), 1, || page.clone());
            assert_eq!(keys.len(), page.len());
        }
        assert_eq!(cache.pages.len(), 4);
        assert_eq!(cache.cached_bytes, MAX_CACHED_BYTES);
    }
}
