//! One scrape: the inventories that stand at its first moment, all of them at the same `now`,
//! written in pieces of bounded size, so that no scrape builds its whole text in memory.

use std::sync::Arc;

use jiff::Timestamp;
use prometheus::{Encoder as _, TextEncoder};

use super::own::Gathered;
use super::series::{FAMILIES, Form, head};
use super::threshold::Threshold;
use crate::inventory::Shown;

/// What the answer's `Content-Type` says of the text format 0.0.4.
pub const TEXT_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A piece is handed on once it is this long; it can be longer by one line, or by the lines of
/// one organization's roll-ups.
const PIECE: usize = 64 << 10;

/// A scrape under way. Held by the response that it is the body of.
pub struct Exposition {
    own: Option<Gathered>,
    shown: Shown,
    thresholds: Arc<[Threshold]>,
    now: Timestamp,
    family: usize,
    org: usize,
    key: usize,
}

impl Exposition {
    /// A scrape of what is `shown`, as it is seen at `now`, and of the exporter's `own` metrics,
    /// which were gathered before.
    pub fn new(own: Gathered, shown: Shown, thresholds: Arc<[Threshold]>, now: Timestamp) -> Self {
        Self {
            own: Some(own),
            shown,
            thresholds,
            now,
            family: 0,
            org: 0,
            key: 0,
        }
    }

    /// The next piece of the text; none at the end.
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(PIECE + 4096);
        while out.len() < PIECE {
            if !self.step(&mut out) {
                break;
            }
        }
        (!out.is_empty()).then_some(out)
    }

    /// The whole text at once.
    pub fn whole(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(piece) = self.next_piece() {
            out.extend_from_slice(&piece);
        }
        out
    }

    /// Writes a little more; false at the end.
    fn step(&mut self, out: &mut Vec<u8>) -> bool {
        let Some((family, form)) = FAMILIES.get(self.family) else {
            return self.write_own(out);
        };
        let orgs = match form {
            Form::Details(_) => self.shown.details.len(),
            Form::Inventory(_) | Form::Keys(_) => self.shown.inventories.len(),
        };
        if self.org >= orgs {
            self.family += 1;
            self.org = 0;
            return true;
        }
        if self.org == 0 && self.key == 0 {
            head(out, family);
        }
        match form {
            Form::Details(write) => {
                if let Some((org, details)) = self.shown.details.get(self.org) {
                    write(out, family, org, details);
                }
            }
            Form::Inventory(write) => {
                if let Some(inventory) = self.shown.inventories.get(self.org) {
                    write(out, family, inventory, &self.thresholds, self.now);
                }
            }
            Form::Keys(write) => {
                let inventory = self.shown.inventories.get(self.org);
                while let Some(key) = inventory.and_then(|inventory| inventory.key(self.key)) {
                    write(out, family, key, self.now);
                    self.key += 1;
                    if out.len() >= PIECE {
                        return true;
                    }
                }
            }
        }
        self.org += 1;
        self.key = 0;
        true
    }

    fn write_own(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(Gathered(own)) = self.own.take() else {
            return false;
        };
        // writing to a Vec cannot fail, and the registry checked names when they came in
        let _ = TextEncoder::new().encode(&own, out);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::{KeyId, OrgId, ProjectId};
    use crate::inventory::{Inventory, KeyRecord, Moment};
    use crate::metrics::Own;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn inventory(keys: usize) -> Arc<Inventory> {
        let records = (0..keys)
            .map(|n| KeyRecord {
                id: KeyId::new(format!("key{n:06}")),
                project: ProjectId::new("p"),
                name: "n".into(),
                status: "ACTIVE".into(),
                cloud: String::new(),
                geography: String::new(),
                endpoint: String::new(),
                created: Moment::At(at(50)),
                last_used: if n % 2 == 0 {
                    Moment::At(at(100))
                } else {
                    Moment::Missing
                },
            })
            .collect();
        let org = OrgId::parse("32b6e34b3d91647abb20e7b8").expect("an id");
        Arc::new(Inventory::new(org, (at(150), at(150)), records, 0, &[]))
    }

    fn expose(inventories: Vec<Arc<Inventory>>, now: Timestamp) -> Exposition {
        let own = Own::new().expect("sound").gather();
        let shown = Shown {
            inventories,
            details: Vec::new(),
        };
        Exposition::new(
            own,
            shown,
            [Threshold::new(Duration::from_mins(1))].into(),
            now,
        )
    }

    #[test]
    fn ages_are_those_of_the_scrape_and_missing_values_missing_series() {
        let text = String::from_utf8(expose(vec![inventory(2)], at(160)).whole()).expect("text");
        let line = |name: &str, key: &str| {
            text.lines()
                .find(|l| l.starts_with(&format!("{name}{{")) && l.contains(key))
                .map(|l| l.rsplit(' ').next().expect("a value"))
        };
        let name = |suffix: &str| format!("mongodbatlas_ai_model_api_key_{suffix}");
        assert_eq!(
            line(&name("last_used_age_seconds"), "key000000"),
            Some("60")
        );
        assert_eq!(line(&name("last_used_age_seconds"), "key000001"), None);
        assert_eq!(
            line(&name("last_used_timestamp_seconds"), "key000001"),
            None
        );
        assert_eq!(line(&name("idle_seconds"), "key000001"), Some("110"));
        assert_eq!(line(&name("used"), "key000000"), Some("1"));
        assert_eq!(line(&name("used"), "key000001"), Some("0"));
        assert_eq!(line("mongodbatlas_ai_model_api_keys_idle", "1m"), Some("2"));
        assert!(!text.contains("NaN"));
    }

    #[test]
    fn pieces_are_bounded_and_heads_come_once() {
        let mut exposition = expose(vec![inventory(5000)], at(160));
        let mut whole = Vec::new();
        while let Some(piece) = exposition.next_piece() {
            assert!(piece.len() < PIECE + 8192, "{}", piece.len());
            whole.extend(piece);
        }
        let text = String::from_utf8(whole).expect("text");
        for (family, form) in FAMILIES {
            let head = format!("# TYPE {} ", family.name);
            let heads = usize::from(!matches!(form, Form::Details(_)));
            assert_eq!(text.matches(&head).count(), heads, "{}", family.name);
        }
        assert_eq!(
            text.matches("mongodbatlas_ai_model_api_key_info{").count(),
            5000
        );
    }

    #[test]
    fn without_an_inventory_there_are_no_key_families() {
        let text = String::from_utf8(expose(vec![], at(0)).whole()).expect("text");
        assert!(!text.contains("\nmongodbatlas_"), "{text}");
        assert!(text.contains("atlas_ai_keys_exporter_build_info{"));
    }
}
