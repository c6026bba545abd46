//! One scrape, written in chunks of bounded size, so that no scrape holds the complete text in memory or blocks a serving
//! thread for long.

use super::key_families::{CHUNK_SIZE, FAMILIES, KeyPosition};
use super::metric_snapshot::MetricSnapshot;
use super::negotiate::Format;
use super::snapshot::ScrapeSnapshot;

/// Maximum number of keys that are examined for one chunk, if none of them has a series.
const MAX_KEYS_PER_CHUNK: usize = 20_000;

/// The position in the families of the inventory.
pub(super) struct FamilyCursor {
    family: usize,
    position: KeyPosition,
    header_written: bool,
}

impl FamilyCursor {
    /// Creates a cursor that starts with the family at that index.
    pub(super) fn new(family: usize) -> Self {
        Self {
            family,
            position: KeyPosition::default(),
            header_written: false,
        }
    }

    /// Appends a chunk. Returns `false` at the end. A chunk can be empty if keys have no series.
    pub(super) fn advance(
        &mut self,
        snapshot: &ScrapeSnapshot,
        format: Format,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut key_budget = MAX_KEYS_PER_CHUNK;
        while out.len() < CHUNK_SIZE && key_budget > 0 {
            let Some(family) = FAMILIES.get(self.family) else {
                return false;
            };
            if self.position.org >= family.org_count(snapshot) {
                *self = Self::new(self.family + 1);
                continue;
            }
            if !self.header_written {
                self.header_written = true;
                family.header().write(out, format);
            }
            let KeyPosition { org, key } = self.position;
            let next_key = family.write(out, snapshot, self.position, key_budget);
            let seen = next_key.unwrap_or(key).saturating_sub(key);
            key_budget = key_budget.saturating_sub(seen.max(1));
            self.position = match next_key {
                Some(key) => KeyPosition { org, key },
                None => KeyPosition {
                    org: org + 1,
                    key: 0,
                },
            };
        }
        true
    }
}

/// A scrape in progress: the body of a response.
pub struct Exposition {
    format: Format,
    snapshot: ScrapeSnapshot,
    cursor: FamilyCursor,
    metrics: Option<MetricSnapshot>,
}

impl Exposition {
    /// Creates the scrape of `snapshot` and of the exporter's own `metrics`, which were gathered before.
    pub fn new(format: Format, metrics: MetricSnapshot, snapshot: ScrapeSnapshot) -> Self {
        Self {
            format,
            snapshot,
            cursor: FamilyCursor::new(0),
            metrics: Some(metrics),
        }
    }

    /// Returns the next chunk, `None` at the end. A chunk can be empty, so that a call that writes no sample does not
    /// block the thread for long.
    pub fn next_chunk(&mut self) -> Option<Vec<u8>> {
        self.metrics.as_ref()?;
        let mut out = Vec::with_capacity(CHUNK_SIZE + 4096);
        if !self.cursor.advance(&self.snapshot, self.format, &mut out) {
            self.metrics.take()?.write(&mut out, self.format);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::super::key_families::STATIC_FAMILIES;
    use super::*;
    use crate::inventory::{
        ApiKey, ApiTime, ClassifiedInventory, Inventory, InventorySnapshot, KeyAttributes,
    };
    use crate::key_policy::{Exemption, Exemptions, KeyPolicy, KeySelector};
    use crate::metrics::{ExporterMetrics, IdleThreshold, KeyLabel, KeySeriesOptions, PerKeyMode};
    use mongodb_atlas_client::{KeyId, OrgId, ProjectId};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn inventory(org: u32, keys: usize) -> Arc<Inventory> {
        let records = (0..keys).map(|n| ApiKey {
            id: KeyId::new(format!("key{n:06}")),
            project: ProjectId::new("p"),
            name: "n".into(),
            attributes: KeyAttributes {
                status: "ACTIVE".into(),
                created_by: "Ada".into(),
                ..KeyAttributes::default()
            },
            masked_secret: "al-****".into(),
            created: ApiTime::Valid(at(50)),
            last_used: if n % 2 == 0 {
                ApiTime::Valid(at(100))
            } else {
                ApiTime::Missing
            },
            ..ApiKey::default()
        });
        let org = OrgId::parse(&format!("{org:024x}")).expect("an id");
        Arc::new(Inventory::from_records(org, at(150), records))
    }

    fn selection() -> KeySeriesOptions {
        KeySeriesOptions {
            per_key: PerKeyMode::All,
            labels: [KeyLabel::Name, KeyLabel::Status].into(),
            max_keys: 1_000_000,
            thresholds: [IdleThreshold::new(Duration::from_mins(1))].into(),
        }
    }

    fn expose(
        format: Format,
        inventories: Vec<Arc<Inventory>>,
        selection: KeySeriesOptions,
        now: Timestamp,
    ) -> Exposition {
        let metrics = ExporterMetrics::new().expect("sound").gather();
        let visible = InventorySnapshot {
            inventories: inventories.into_iter().map(Into::into).collect(),
            details: Vec::new(),
        };
        Exposition::new(
            format,
            metrics,
            ScrapeSnapshot::new(visible, Arc::new(selection), now),
        )
    }

    fn text(
        inventories: Vec<Arc<Inventory>>,
        selection: KeySeriesOptions,
        now: Timestamp,
    ) -> String {
        let mut exposition = expose(Format::Text, inventories, selection, now);
        let chunks = std::iter::from_fn(|| exposition.next_chunk());
        String::from_utf8(chunks.flatten().collect()).expect("text")
    }

    fn name(suffix: &str) -> String {
        format!("mongodbatlas_ai_model_api_key_{suffix}")
    }

    /// Returns the value of the series of a key.
    fn value<'a>(text: &'a str, name: &str, key: &str) -> Option<&'a str> {
        text.lines()
            .find(|l| l.starts_with(&format!("{name}{{")) && l.contains(key))
            .and_then(|l| l.rsplit(' ').next())
    }

    #[test]
    fn ages_are_computed_at_scrape_time_and_missing_values_are_omitted() {
        let text = text(vec![inventory(1, 2)], selection(), at(160));
        for (suffix, key, expected) in [
            ("last_used_age_seconds", "key000000", Some("60")),
            ("last_used_age_seconds", "key000001", None),
            ("last_used_timestamp_seconds", "key000001", None),
            ("idle_seconds", "key000001", Some("110")),
            ("used", "key000000", Some("1")),
            ("used", "key000001", Some("0")),
        ] {
            assert_eq!(value(&text, &name(suffix), key), expected, "{suffix} {key}");
        }
        for family in ["keys_idle", "keys_never_used"] {
            let family = format!("mongodbatlas_ai_model_api_{family}");
            assert_eq!(value(&text, &family, "1m"), Some("1"), "{family}");
        }
        assert!(!text.contains("NaN"));
    }

    #[test]
    fn future_timestamps_have_age_zero() {
        let text = text(vec![inventory(1, 1)], selection(), at(60));
        assert_eq!(
            value(&text, &name("last_used_age_seconds"), "key"),
            Some("0")
        );
    }

    #[test]
    fn chunks_are_bounded_and_headers_are_written_once() {
        for format in Format::ALL {
            let inventories = vec![inventory(1, 5000), inventory(2, 0), inventory(3, 700)];
            let mut exposition = expose(format, inventories, selection(), at(160));
            let mut whole = Vec::new();
            while let Some(chunk) = exposition.next_chunk() {
                assert!(chunk.len() < CHUNK_SIZE + 8192, "{}", chunk.len());
                whole.extend(chunk);
            }
            if format == Format::Text {
                let text = String::from_utf8(whole).expect("text");
                for writer in &FAMILIES[..STATIC_FAMILIES] {
                    let header = format!("# TYPE {} ", writer.family.name);
                    assert_eq!(text.matches(&header).count(), 1, "{header}");
                }
                assert_eq!(text.matches(&format!("{}{{", name("info"))).count(), 5700);
            }
        }
    }

    #[test]
    fn ends_of_exemptions_are_written_in_bounded_chunks() {
        let exemption = Exemption {
            selector: KeySelector::parse_name("*", None).expect("a glob"),
            reason: "a test".into(),
            until: "1970-01-01".parse().expect("a date"),
        };
        let exemptions = Exemptions::new(vec![exemption]).expect("globs");
        let policy = Arc::new(KeyPolicy {
            exemptions,
            ..KeyPolicy::default()
        });
        let inventories = [(1, 5000), (2, 0), (3, 700)]
            .map(|(org, keys)| ClassifiedInventory::new(inventory(org, keys), &policy, None));
        for (now, expected) in [(86_399, 5700), (86_400, 0)] {
            let visible = InventorySnapshot {
                inventories: inventories.to_vec(),
                details: Vec::new(),
            };
            let metrics = ExporterMetrics::new().expect("sound").gather();
            let snapshot = ScrapeSnapshot::new(visible, Arc::new(selection()), at(now));
            let mut exposition = Exposition::new(Format::Text, metrics, snapshot);
            let mut whole = Vec::new();
            while let Some(chunk) = exposition.next_chunk() {
                assert!(chunk.len() < 2 * CHUNK_SIZE, "{}", chunk.len());
                whole.extend(chunk);
            }
            let text = String::from_utf8(whole).expect("text");
            let series = format!("{}{{", name("exempt_until_timestamp_seconds"));
            assert_eq!(text.matches(&series).count(), expected, "{now}");
        }
    }

    #[test]
    fn key_families_are_absent_without_an_inventory() {
        let text = text(vec![], selection(), at(0));
        assert!(!text.contains("\nmongodbatlas_"), "{text}");
        assert!(text.contains("atlas_ai_keys_exporter_build_info{"));
    }

    #[test]
    fn roll_ups_are_written_without_key_series() {
        let selection = KeySeriesOptions {
            per_key: PerKeyMode::None,
            ..selection()
        };
        let text = text(vec![inventory(1, 10)], selection, at(160));
        assert!(!text.contains("api_key_id") && !text.contains(&name("info")));
        assert_eq!(
            value(&text, "mongodbatlas_ai_model_api_keys", "ACTIVE"),
            Some("10")
        );
    }

    #[test]
    fn idle_mode_exports_keys_past_the_smallest_threshold() {
        let selection = KeySeriesOptions {
            per_key: PerKeyMode::Idle,
            ..selection()
        };
        // Keys never used are idle since 50, the others since 100; the threshold is one minute.
        for (now, expected) in [(109, 0), (110, 5), (159, 5), (160, 10)] {
            let text = text(vec![inventory(1, 10)], selection.clone(), at(now));
            for suffix in ["info", "idle_seconds", "used"] {
                let series = text.matches(&format!("{}{{", name(suffix))).count();
                assert_eq!(series, expected, "{suffix} at {now}");
            }
            assert_eq!(
                value(&text, "atlas_ai_keys_exporter_keys_dropped", ""),
                Some("0")
            );
        }
    }

    #[test]
    fn max_keys_exports_the_longest_idle_and_counts_the_rest() {
        let selection = KeySeriesOptions {
            max_keys: 12,
            ..selection()
        };
        let inventories = || vec![inventory(1, 10), inventory(2, 10)];
        let text = text(inventories(), selection.clone(), at(160));
        // Five keys of each organization are idle since 50. The other ten are all idle since 100 and exceed the maximum.
        assert_eq!(text.matches(&format!("{}{{", name("info"))).count(), 10);
        let dropped = text
            .lines()
            .filter(|line| line.starts_with("atlas_ai_keys_exporter_keys_dropped{"))
            .map(|line| line.ends_with(" 5"));
        assert_eq!(dropped.collect::<Vec<_>>(), [true, true]);
        for family in ["keys_idle", "keys_never_used"] {
            let family = format!("mongodbatlas_ai_model_api_{family}");
            let keys = value(&text, &family, "1m");
            assert_eq!(keys, Some("5"), "roll-ups count all: {family}");
        }
    }

    #[test]
    fn info_metric_has_the_configured_labels() {
        let labels = |labels: &[KeyLabel]| {
            let selection = KeySeriesOptions {
                labels: labels.into(),
                ..selection()
            };
            let text = text(vec![inventory(1, 1)], selection, at(160));
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{}{{", name("info"))));
            let (_, rest) = line
                .expect("a line")
                .split_once("api_key_id=\"key000000\"")
                .expect("an id");
            rest.to_owned()
        };
        assert_eq!(labels(&[]), "} 1");
        assert_eq!(labels(&[KeyLabel::Name]), ",name=\"n\"} 1");
        assert_eq!(
            labels(&[
                KeyLabel::CreatedBy,
                KeyLabel::Status,
                KeyLabel::MaskedSecret,
                KeyLabel::Name,
                KeyLabel::Cloud
            ]),
            ",created_by=\"Ada\",status=\"ACTIVE\",masked_secret=\"al-****\",name=\"n\",cloud=\"\"} 1"
        );
    }
}
