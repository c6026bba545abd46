//! All formats of a scrape contain the same series, whatever is in a label; compressed or not; for stalled
//! readers as well.

mod scrapes;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use crate::common::Scrape;
use atlas_ai_keys_exporter::inventory::{
    Inventory, InventorySnapshot, KeyAttributes, KeyRecord, ModelRateLimit, Moment, OrgDetails,
    ProjectName,
};
use atlas_ai_keys_exporter::metrics::{
    ExporterMetrics, Exposition, Format, IdleThreshold, KeyLabel, KeySeriesOptions, PerKeyMode,
    ScrapeSnapshot, compress_snapshot, compress_trailer,
};
use flate2::read::GzDecoder;
use jiff::Timestamp;
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};
use proptest::prelude::*;
use prost::Message as _;

/// `io.prometheus.client`, as far as it is used, from Prometheus' own `metrics.proto`.
mod client_model {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct LabelPair {
        #[prost(string, optional, tag = "1")]
        pub name: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub value: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Simple {
        #[prost(double, optional, tag = "1")]
        pub value: Option<f64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Bucket {
        #[prost(uint64, optional, tag = "1")]
        pub cumulative_count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub upper_bound: Option<f64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Histogram {
        #[prost(uint64, optional, tag = "1")]
        pub sample_count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub sample_sum: Option<f64>,
        #[prost(message, repeated, tag = "3")]
        pub bucket: Vec<Bucket>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Metric {
        #[prost(message, repeated, tag = "1")]
        pub label: Vec<LabelPair>,
        #[prost(message, optional, tag = "2")]
        pub gauge: Option<Simple>,
        #[prost(message, optional, tag = "3")]
        pub counter: Option<Simple>,
        #[prost(message, optional, tag = "7")]
        pub histogram: Option<Histogram>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct MetricFamily {
        #[prost(string, optional, tag = "1")]
        pub name: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub help: Option<String>,
        #[prost(int32, optional, tag = "3")]
        pub kind: Option<i32>,
        #[prost(message, repeated, tag = "4")]
        pub metric: Vec<Metric>,
    }
}

use client_model::MetricFamily;

/// Name, labels and value of every series; values as text, so that they can be in a set.
type SeriesSet = BTreeSet<(String, BTreeMap<String, String>, String)>;

fn families(mut bytes: &[u8]) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    while !bytes.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut bytes).unwrap());
    }
    families
}

/// The series of the protobuf form, named as those of the text form.
fn of_protobuf(bytes: &[u8]) -> SeriesSet {
    let mut series = SeriesSet::new();
    for family in families(bytes) {
        let name = family.name.unwrap();
        for metric in family.metric {
            let labels: BTreeMap<String, String> = metric
                .label
                .into_iter()
                .map(|pair| (pair.name.unwrap(), pair.value.unwrap()))
                .collect();
            let mut put = |name: String, labels: BTreeMap<String, String>, value: f64| {
                assert!(series.insert((name, labels, format!("{value:?}"))));
            };
            let simple = metric.gauge.or(metric.counter);
            if let Some(value) = simple {
                put(name.clone(), labels, value.value.unwrap());
            } else {
                let histogram = metric.histogram.unwrap();
                #[allow(clippy::cast_precision_loss, reason = "a count")]
                let count = histogram.sample_count.unwrap() as f64;
                put(
                    format!("{name}_sum"),
                    labels.clone(),
                    histogram.sample_sum.unwrap(),
                );
                put(format!("{name}_count"), labels, count);
            }
        }
    }
    series
}

fn series_from_text(text: &str) -> SeriesSet {
    Scrape::parse(text)
        .series()
        .into_iter()
        .filter(|series| !series.name.ends_with("_bucket"))
        .map(|series| (series.name, series.labels, format!("{:?}", series.value)))
        .collect()
}

fn selection() -> KeySeriesOptions {
    KeySeriesOptions {
        per_key: PerKeyMode::All,
        labels: KeyLabel::ALL.into(),
        max_keys: 1_000_000,
        thresholds: [7, 30]
            .map(|days| IdleThreshold::new(Duration::from_hours(days * 24)))
            .into(),
    }
}

fn encode_identity(format: Format, own: &ExporterMetrics, scene: &ScrapeSnapshot) -> Vec<u8> {
    Exposition::new(format, own.gather(), scene.clone()).into_bytes()
}

fn encode_gzip(format: Format, own: &ExporterMetrics, scene: &ScrapeSnapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    let sum = compress_snapshot(format, scene, &mut |chunk| bytes.extend_from_slice(&chunk));
    bytes.extend_from_slice(&compress_trailer(format, &own.gather(), sum));
    let mut out = Vec::new();
    GzDecoder::new(&*bytes).read_to_end(&mut out).unwrap();
    out
}

/// Removes the series of the process itself, which change between scrapes.
fn time_independent_series(series: SeriesSet) -> SeriesSet {
    series
        .into_iter()
        .filter(|(name, ..)| !name.starts_with("process_"))
        .collect()
}

/// Any text, with a bias to characters that have a meaning in a format.
fn any_text() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        "\"",
        "\\",
        "\n",
        "\r",
        "\0",
        "\t",
        "{",
        "}",
        ",",
        "=",
        "#",
        " ",
        "\u{feff}",
        "\u{2028}",
        "🔑",
        "ü",
        "\\n",
        "\"}",
        "# EOF\n",
        "\u{7f}",
        "\u{10ffff}",
    ]);
    let part = prop_oneof![
        special.prop_map(str::to_owned),
        ".{0,6}".prop_map(|text| text)
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn any_api_time() -> impl Strategy<Value = Moment> {
    prop_oneof![
        (0_i64..4_000_000_000_000_000)
            .prop_map(|micros| Moment::Valid(Timestamp::from_microsecond(micros).unwrap())),
        (-1_000_000_i64..1_000_000)
            .prop_map(|micros| Moment::Valid(Timestamp::from_microsecond(micros).unwrap())),
        Just(Moment::Missing),
        Just(Moment::Invalid),
    ]
}

prop_compose! {
    fn any_record()(
        id in any_text(), project in any_text(), name in any_text(), masked_secret in any_text(),
        kind in prop::collection::vec(any_text(), 5), created in any_api_time(), last_used in any_api_time(),
    ) -> KeyRecord {
        let [status, cloud, geography, endpoint, created_by] = <[String; 5]>::try_from(kind).unwrap();
        KeyRecord {
            id: KeyId::new(id),
            project: ProjectId::new(project),
            name,
            masked_secret,
            attributes: KeyAttributes { status, cloud, geography, endpoint, created_by },
            created,
            last_used,
            ..KeyRecord::default()
        }
    }
}

fn build_snapshot(records: &[KeyRecord], texts: &[String]) -> ScrapeSnapshot {
    let org = |n: u32| OrgId::parse(&format!("{n:024x}")).unwrap();
    let at = Timestamp::from_second(1_790_000_000).unwrap();
    let (first, second) = records.split_at(records.len() / 2);
    let inventories = [first, second].into_iter().zip(0..).map(|(records, n)| {
        Arc::new(Inventory::new(
            org(n),
            (at, at),
            records.iter().cloned(),
            0,
            &[],
        ))
    });
    let details = OrgDetails {
        name: Some(texts[0].clone()),
        projects: vec![ProjectName {
            id: ProjectId::new(texts[1].clone()),
            name: texts[2].clone(),
        }],
        limits: vec![ModelRateLimit {
            group: texts[3].clone(),
            cloud: texts[4].clone(),
            geography: texts[5].clone(),
            requests_per_minute: Some(7),
            tokens_per_minute: None,
        }],
        asked_at: None,
    };
    let shown = InventorySnapshot {
        inventories: inventories.collect(),
        details: vec![(org(1), Arc::new(details))],
    };
    ScrapeSnapshot::new(shown, Arc::new(selection()), at)
}

/// Returns the expected info series of the keys.
fn expected_info_labels(records: &[KeyRecord]) -> BTreeSet<BTreeMap<String, String>> {
    let (first, second) = records.split_at(records.len() / 2);
    let mut by_id: BTreeMap<(usize, &str), &KeyRecord> = BTreeMap::new();
    for (org, records) in [first, second].into_iter().enumerate() {
        for record in records {
            by_id.insert((org, record.id.as_str()), record);
        }
    }
    by_id
        .into_iter()
        .map(|((org, id), record)| {
            [
                ("org_id", format!("{org:024x}")),
                ("project_id", record.project.to_string()),
                ("api_key_id", id.to_owned()),
                ("name", record.name.clone()),
                ("status", record.attributes.status.clone()),
                ("cloud", record.attributes.cloud.clone()),
                ("geography", record.attributes.geography.clone()),
                ("endpoint", record.attributes.endpoint.clone()),
                ("created_by", record.attributes.created_by.clone()),
                ("masked_secret", record.masked_secret.clone()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_format_encodes_the_same_series_for_any_label(
        records in prop::collection::vec(any_record(), 0..12),
        texts in prop::collection::vec(any_text(), 6),
    ) {
        let scene = build_snapshot(&records, &texts);
        let own = ExporterMetrics::new().unwrap();
        own.init_credential(&texts[0], ["issued"]);
        let text = String::from_utf8(encode_identity(Format::Text, &own, &scene)).unwrap();
        let series = time_independent_series(series_from_text(&text));
        let info = "mongodbatlas_ai_model_api_key_info";
        let shown: BTreeSet<_> = series
            .iter()
            .filter(|(name, ..)| name == info)
            .map(|(_, labels, _)| labels.clone())
            .collect();
        prop_assert_eq!(shown, expected_info_labels(&records), "what went in comes out");
        let protobuf = encode_identity(Format::Protobuf, &own, &scene);
        prop_assert_eq!(time_independent_series(of_protobuf(&protobuf)), series.clone());
        let open = String::from_utf8(encode_identity(Format::OpenMetrics, &own, &scene)).unwrap();
        prop_assert!(open.ends_with("# EOF\n"));
        prop_assert_eq!(time_independent_series(series_from_text(&open)), series.clone());
        for format in Format::ALL {
            let unpacked = encode_gzip(format, &own, &scene);
            let unpacked = match format {
                Format::Protobuf => of_protobuf(&unpacked),
                _ => series_from_text(std::str::from_utf8(&unpacked).unwrap()),
            };
            prop_assert_eq!(time_independent_series(unpacked), series.clone(), "{:?} packed", format);
        }
    }
}

#[test]
fn each_family_appears_once_in_every_format() {
    let record = |n: usize| KeyRecord {
        id: KeyId::new(format!("key{n}")),
        project: ProjectId::new("p"),
        created: Moment::Valid(Timestamp::UNIX_EPOCH),
        last_used: Moment::Valid(Timestamp::UNIX_EPOCH),
        ..KeyRecord::default()
    };
    let records: Vec<_> = (0..2000).map(record).collect();
    let scene = build_snapshot(&records, &[const { String::new() }; 6]);
    let own = ExporterMetrics::new().unwrap();
    for bytes in [
        encode_identity(Format::Protobuf, &own, &scene),
        encode_gzip(Format::Protobuf, &own, &scene),
    ] {
        let mut names: Vec<String> = families(&bytes)
            .into_iter()
            .map(|family| family.name.unwrap())
            .collect();
        let before = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), before);
    }
    for format in [Format::Text, Format::OpenMetrics] {
        let text = String::from_utf8(encode_identity(format, &own, &scene)).unwrap();
        for head in ["# HELP ", "# TYPE "] {
            let mut names: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix(head)?.split(' ').next())
                .collect();
            let before = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), before, "{format:?}: {head}");
        }
    }
}
