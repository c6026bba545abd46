//! One scrape, written in pieces of bounded size, so that no scrape builds its whole text in
//! memory, and none keeps a serving thread for long.

use super::encoder::Encoder;
use super::exporter_metrics::{self, Gathered};
use super::key_families::{FIXED, MOVING, Spec};
use super::negotiate::Format;
use super::proto::Protobuf;
use super::snapshot::Scene;
use super::text::{OpenMetrics, Text};

/// A piece is handed on once it is this long; it can be longer by the samples of one
/// organization's roll-ups, or by one family of the exporter's own.
pub(super) const PIECE: usize = 64 << 10;
/// Keys that are looked at for one piece, should they have no series.
const KEYS_A_PIECE: usize = 20_000;

/// How far the families of the inventory are written.
pub(super) struct Cursor {
    parts: &'static [&'static [Spec]],
    part: usize,
    family: usize,
    org: usize,
    key: usize,
    /// The head of the family is written.
    begun: bool,
    /// Where the head has to say how many bytes follow: those that were counted so far.
    counted: usize,
    counting: bool,
}

/// All families.
pub(super) static ALL: &[&[Spec]] = &[FIXED, MOVING];
/// Those that are different at each scrape.
pub(super) static MOVING_ALONE: &[&[Spec]] = &[MOVING];

impl Cursor {
    pub(super) fn new(parts: &'static [&'static [Spec]]) -> Self {
        Self {
            parts,
            part: 0,
            family: 0,
            org: 0,
            key: 0,
            begun: false,
            counted: 0,
            counting: false,
        }
    }

    /// Appends a piece; false at the end. A piece can be empty where keys have no series.
    pub(super) fn advance<E: Encoder>(&mut self, scene: &Scene, out: &mut Vec<u8>) -> bool {
        let mut scratch = Vec::new();
        let mut work = KEYS_A_PIECE;
        while out.len() < PIECE && work > 0 {
            let Some(part) = self.parts.get(self.part) else {
                return false;
            };
            let Some(spec) = part.get(self.family) else {
                (self.part, self.family) = (self.part + 1, 0);
                continue;
            };
            if spec.orgs(scene) == 0 {
                self.family += 1;
                continue;
            }
            if !self.begun {
                (self.begun, self.counting, self.counted) = (true, E::SIZED, 0);
                if !E::SIZED {
                    E::head(out, spec.head(), 0);
                }
            }
            if self.org >= spec.orgs(scene) {
                self.finish::<E>(spec, out);
                continue;
            }
            let place = (self.org, self.key);
            let next = if self.counting {
                scratch.clear();
                let next = spec.write::<E>(&mut scratch, scene, place, (PIECE, work));
                self.counted += scratch.len();
                work = work.saturating_sub(scratch.len() / 64);
                next
            } else {
                spec.write::<E>(out, scene, place, (PIECE, work))
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
    fn finish<E: Encoder>(&mut self, spec: &Spec, out: &mut Vec<u8>) {
        (self.org, self.key) = (0, 0);
        if self.counting {
            self.counting = false;
            E::head(out, spec.head(), self.counted);
        } else {
            self.begun = false;
            self.family += 1;
        }
    }
}

/// A scrape under way. Held by the response that it is the body of.
pub struct Exposition {
    format: Format,
    scene: Scene,
    cursor: Option<Cursor>,
    own: Option<Gathered>,
}

impl Exposition {
    /// A scrape of a `scene`, and of the exporter's `own` metrics, which were gathered before.
    pub fn new(format: Format, own: Gathered, scene: Scene) -> Self {
        Self {
            format,
            scene,
            cursor: Some(Cursor::new(ALL)),
            own: Some(own),
        }
    }

    /// The next piece; none at the end. It can be empty: then the thread was kept for long enough
    /// all the same.
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        match self.format {
            Format::Text => self.piece::<Text>(),
            Format::OpenMetrics => self.piece::<OpenMetrics>(),
            Format::Protobuf => self.piece::<Protobuf>(),
        }
    }

    fn piece<E: Encoder>(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(PIECE + 4096);
        if let Some(cursor) = &mut self.cursor {
            if cursor.advance::<E>(&self.scene, &mut out) {
                return Some(out);
            }
            self.cursor = None;
        }
        if let Some(own) = self.own.take() {
            exporter_metrics::write::<E>(&mut out, &own);
            E::end(&mut out);
        }
        (!out.is_empty()).then_some(out)
    }

    /// The whole scrape at once.
    pub fn whole(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(piece) = self.next_piece() {
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
    use crate::inventory::{Inventory, KeyKind, KeyRecord, Moment, Shown};
    use crate::metrics::{KeyLabel, Own, PerKey, Selection, Threshold};
    use mongodb_atlas_client::{KeyId, OrgId, ProjectId};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn inventory(org: u32, keys: usize) -> Arc<Inventory> {
        let records = (0..keys).map(|n| KeyRecord {
            id: KeyId::new(format!("key{n:06}")),
            project: ProjectId::new("p"),
            name: "n".into(),
            kind: KeyKind {
                status: "ACTIVE".into(),
                created_by: "Ada".into(),
                ..KeyKind::default()
            },
            masked_secret: "al-****".into(),
            created: Moment::At(at(50)),
            last_used: if n % 2 == 0 {
                Moment::At(at(100))
            } else {
                Moment::Missing
            },
            ..KeyRecord::default()
        });
        let org = OrgId::parse(&format!("{org:024x}")).expect("an id");
        Arc::new(Inventory::new(org, (at(150), at(150)), records, 0, &[]))
    }

    fn selection() -> Selection {
        Selection {
            per_key: PerKey::All,
            labels: [KeyLabel::Name, KeyLabel::Status].into(),
            max_keys: 1_000_000,
            thresholds: [Threshold::new(Duration::from_mins(1))].into(),
        }
    }

    fn expose(
        format: Format,
        inventories: Vec<Arc<Inventory>>,
        selection: Selection,
        now: Timestamp,
    ) -> Exposition {
        let own = Own::new().expect("sound").gather();
        let shown = Shown {
            inventories,
            details: Vec::new(),
        };
        Exposition::new(format, own, Scene::new(shown, Arc::new(selection), now))
    }

    fn text(inventories: Vec<Arc<Inventory>>, selection: Selection, now: Timestamp) -> String {
        let exposition = expose(Format::Text, inventories, selection, now);
        String::from_utf8(exposition.whole()).expect("text")
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
    fn ages_are_those_of_the_scrape_and_missing_values_missing_series() {
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
    fn a_time_to_come_has_the_age_zero() {
        let text = text(vec![inventory(1, 1)], selection(), at(60));
        assert_eq!(
            value(&text, &name("last_used_age_seconds"), "key"),
            Some("0")
        );
    }

    #[test]
    fn pieces_are_bounded_and_heads_come_once() {
        for format in Format::ALL {
            let inventories = vec![inventory(1, 5000), inventory(2, 0), inventory(3, 700)];
            let mut exposition = expose(format, inventories, selection(), at(160));
            let mut whole = Vec::new();
            while let Some(piece) = exposition.next_piece() {
                assert!(piece.len() < PIECE + 8192, "{}", piece.len());
                whole.extend(piece);
            }
            if format == Format::Text {
                let text = String::from_utf8(whole).expect("text");
                for spec in FIXED {
                    let head = format!("# TYPE {} ", spec.family.name);
                    assert_eq!(text.matches(&head).count(), 1, "{head}");
                }
                assert_eq!(text.matches(&format!("{}{{", name("info"))).count(), 5700);
            }
        }
    }

    #[test]
    fn without_an_inventory_there_are_no_key_families() {
        let text = text(vec![], selection(), at(0));
        assert!(!text.contains("\nmongodbatlas_"), "{text}");
        assert!(text.contains("atlas_ai_keys_exporter_build_info{"));
    }

    #[test]
    fn without_series_of_keys_there_are_roll_ups() {
        let selection = Selection {
            per_key: PerKey::None,
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
    fn idle_keys_alone_are_those_past_the_smallest_threshold() {
        let selection = Selection {
            per_key: PerKey::Idle,
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
    fn of_too_many_keys_the_most_idle_are_kept_and_the_rest_is_counted() {
        let selection = Selection {
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
    fn the_labels_of_the_info_metric_are_those_that_are_asked_for() {
        let labels = |labels: &[KeyLabel]| {
            let selection = Selection {
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
