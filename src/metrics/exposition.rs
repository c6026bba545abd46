//! One scrape, written in pieces of bounded size, so that no scrape builds its whole text in
//! memory, and none keeps a serving thread for long.

use super::encoder::Encoder;
use super::exporter_metrics::{self, MetricSnapshot};
use super::key_families::{DYNAMIC_FAMILIES, FamilyWriter, STATIC_FAMILIES};
use super::negotiate::Format;
use super::proto::Protobuf;
use super::snapshot::ScrapeSnapshot;
use super::text::{OpenMetrics, PrometheusText};

/// A piece is handed on once it is this long; it can be longer by the samples of one
/// organization's roll-ups, or by one family of the exporter's own.
pub(super) const CHUNK_SIZE: usize = 64 << 10;
/// Keys that are looked at for one piece, should they have no series.
const MAX_KEYS_PER_CHUNK: usize = 20_000;

/// How far the families of the inventory are written.
pub(super) struct FamilyCursor {
    groups: &'static [&'static [FamilyWriter]],
    group: usize,
    family: usize,
    org: usize,
    key: usize,
    /// The head of the family is written.
    header_written: bool,
    /// Where the head has to say how many bytes follow: those that were counted so far.
    counted: usize,
    counting: bool,
}

/// All families.
pub(super) static ALL_FAMILIES: &[&[FamilyWriter]] = &[STATIC_FAMILIES, DYNAMIC_FAMILIES];
/// Those that are different at each scrape.
pub(super) static DYNAMIC_ONLY: &[&[FamilyWriter]] = &[DYNAMIC_FAMILIES];

impl FamilyCursor {
    pub(super) fn new(parts: &'static [&'static [FamilyWriter]]) -> Self {
        Self {
            groups: parts,
            group: 0,
            family: 0,
            org: 0,
            key: 0,
            header_written: false,
            counted: 0,
            counting: false,
        }
    }

    /// Appends a piece; false at the end. A piece can be empty where keys have no series.
    pub(super) fn advance<E: Encoder>(
        &mut self,
        scene: &ScrapeSnapshot,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut scratch = Vec::new();
        let mut work = MAX_KEYS_PER_CHUNK;
        while out.len() < CHUNK_SIZE && work > 0 {
            let Some(part) = self.groups.get(self.group) else {
                return false;
            };
            let Some(spec) = part.get(self.family) else {
                (self.group, self.family) = (self.group + 1, 0);
                continue;
            };
            if spec.org_count(scene) == 0 {
                self.family += 1;
                continue;
            }
            if !self.header_written {
                (self.header_written, self.counting, self.counted) = (true, E::SIZED, 0);
                if !E::SIZED {
                    E::write_header(out, spec.header(), 0);
                }
            }
            if self.org >= spec.org_count(scene) {
                self.finish::<E>(spec, out);
                continue;
            }
            let place = (self.org, self.key);
            let next = if self.counting {
                scratch.clear();
                let next = spec.write::<E>(&mut scratch, scene, place, (CHUNK_SIZE, work));
                self.counted += scratch.len();
                work = work.saturating_sub(scratch.len() / 64);
                next
            } else {
                spec.write::<E>(out, scene, place, (CHUNK_SIZE, work))
            };
            let seen = next.unwrap_or(self.key).saturating_sub(self.key);
            work = work.saturating_sub(seen.max(1));
            (self.org, self.key) = match next {
                Some(next) => (self.org, next),
                None => (self.org + 1, 0),
            };
        }
        true
    }

    /// At the end of a family: on to the next one, or once more over it now that its size is known.
    fn finish<E: Encoder>(&mut self, spec: &FamilyWriter, out: &mut Vec<u8>) {
        (self.org, self.key) = (0, 0);
        if self.counting {
            self.counting = false;
            E::write_header(out, spec.header(), self.counted);
        } else {
            self.header_written = false;
            self.family += 1;
        }
    }
}

/// A scrape under way. Held by the response that it is the body of.
pub struct Exposition {
    format: Format,
    snapshot: ScrapeSnapshot,
    cursor: Option<FamilyCursor>,
    metrics: Option<MetricSnapshot>,
}

impl Exposition {
    /// A scrape of a `scene`, and of the exporter's `own` metrics, which were gathered before.
    pub fn new(format: Format, own: MetricSnapshot, scene: ScrapeSnapshot) -> Self {
        Self {
            format,
            snapshot: scene,
            cursor: Some(FamilyCursor::new(ALL_FAMILIES)),
            metrics: Some(own),
        }
    }

    /// The next piece; none at the end. It can be empty: then the thread was kept for long enough
    /// all the same.
    pub fn next_chunk(&mut self) -> Option<Vec<u8>> {
        match self.format {
            Format::Text => self.encode_chunk::<PrometheusText>(),
            Format::OpenMetrics => self.encode_chunk::<OpenMetrics>(),
            Format::Protobuf => self.encode_chunk::<Protobuf>(),
        }
    }

    fn encode_chunk<E: Encoder>(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(CHUNK_SIZE + 4096);
        if let Some(cursor) = &mut self.cursor {
            if cursor.advance::<E>(&self.snapshot, &mut out) {
                return Some(out);
            }
            self.cursor = None;
        }
        if let Some(own) = self.metrics.take() {
            exporter_metrics::write_families::<E>(&mut out, &own);
            E::write_end(&mut out);
        }
        (!out.is_empty()).then_some(out)
    }

    /// The whole scrape at once.
    pub fn into_bytes(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(piece) = self.next_chunk() {
            out.extend_from_slice(&piece);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::inventory::{ApiKey, ApiTime, Inventory, InventorySnapshot, KeyAttributes};
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
        let own = ExporterMetrics::new().expect("sound").gather();
        let shown = InventorySnapshot {
            inventories,
            details: Vec::new(),
        };
        Exposition::new(
            format,
            own,
            ScrapeSnapshot::new(shown, Arc::new(selection), now),
        )
    }

    fn text(
        inventories: Vec<Arc<Inventory>>,
        selection: KeySeriesOptions,
        now: Timestamp,
    ) -> String {
        let exposition = expose(Format::Text, inventories, selection, now);
        String::from_utf8(exposition.into_bytes()).expect("text")
    }

    fn name(suffix: &str) -> String {
        format!("mongodbatlas_ai_model_api_key_{suffix}")
    }

    /// The value of the series of a key.
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
        assert_eq!(
            value(&text, "mongodbatlas_ai_model_api_keys_idle", "1m"),
            Some("2")
        );
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
            while let Some(piece) = exposition.next_chunk() {
                assert!(piece.len() < CHUNK_SIZE + 8192, "{}", piece.len());
                whole.extend(piece);
            }
            if format == Format::Text {
                let text = String::from_utf8(whole).expect("text");
                for spec in STATIC_FAMILIES {
                    let head = format!("# TYPE {} ", spec.family.name);
                    assert_eq!(text.matches(&head).count(), 1, "{head}");
                }
                assert_eq!(text.matches(&format!("{}{{", name("info"))).count(), 5700);
            }
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
        // keys never used are idle since 50, the others since 100; the threshold is a minute
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
    fn max_keys_exports_the_most_idle_and_counts_the_rest() {
        let selection = KeySeriesOptions {
            max_keys: 12,
            ..selection()
        };
        let inventories = || vec![inventory(1, 10), inventory(2, 10)];
        let text = text(inventories(), selection.clone(), at(160));
        // five of each are idle since 50; of the other ten, all idle since 100, none fits
        assert_eq!(text.matches(&format!("{}{{", name("info"))).count(), 10);
        let dropped = text
            .lines()
            .filter(|line| line.starts_with("atlas_ai_keys_exporter_keys_dropped{"))
            .map(|line| line.ends_with(" 5"));
        assert_eq!(dropped.collect::<Vec<_>>(), [true, true]);
        let idle = value(&text, "mongodbatlas_ai_model_api_keys_idle", "1m");
        assert_eq!(idle, Some("10"), "roll-ups count all");
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
