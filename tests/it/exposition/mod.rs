//! All formats of a scrape contain the same series, for every label value, compressed or not, and for stalled
//! readers.

mod orgs;
mod scrapes;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use crate::common::Scrape;
use atlas_ai_keys_exporter::inventory::{
    ApiKey, ApiTime, DetailsWithOwners, Inventory, InventorySnapshot, KeyAttributes, OrgDetails,
};
use atlas_ai_keys_exporter::key_policy::KeyPolicy;
use atlas_ai_keys_exporter::metrics::{
    ChunkSource as _, Compressor, ExporterMetrics, Exposition, Format, IdleThreshold, KeyLabel,
    KeySeriesOptions, PerKeyMode, ScrapeSnapshot,
};
use flate2::read::GzDecoder;
use jiff::Timestamp;
use mongodb_atlas_client::{KeyId, ModelLimit, OrgId, Project, ProjectId};
use proptest::prelude::*;

/// Name, labels and value of every series. Values are texts, so that a set can contain them.
type SeriesSet = BTreeSet<(String, BTreeMap<String, String>, String)>;

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

fn encode_identity(format: Format, own: &ExporterMetrics, snapshot: &ScrapeSnapshot) -> Vec<u8> {
    let mut exposition = Exposition::new(format, own.gather(), snapshot.clone());
    let chunks = std::iter::from_fn(|| exposition.next_chunk());
    chunks.flatten().collect()
}

fn encode_gzip(format: Format, own: &ExporterMetrics, snapshot: &ScrapeSnapshot) -> Vec<u8> {
    let mut compressor = Compressor::new(format, snapshot.clone());
    let mut chunks = Vec::new();
    let mut advances = 0;
    while compressor.advance(&mut chunks) {
        advances += 1;
        assert!(advances < 100_000, "the body does not end");
    }
    chunks.push(Compressor::finish(
        format,
        &own.gather(),
        compressor.checksum(),
    ));
    let bytes = chunks.concat();
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

/// Any text, often with characters that are special in a format.
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

fn any_api_time() -> impl Strategy<Value = ApiTime> {
    prop_oneof![
        (0_i64..4_000_000_000_000_000)
            .prop_map(|micros| ApiTime::Valid(Timestamp::from_microsecond(micros).unwrap())),
        (-1_000_000_i64..1_000_000)
            .prop_map(|micros| ApiTime::Valid(Timestamp::from_microsecond(micros).unwrap())),
        Just(ApiTime::Missing),
        Just(ApiTime::Invalid),
    ]
}

prop_compose! {
    fn any_record()(
        id in any_text(), project in any_text(), name in any_text(), masked_secret in any_text(),
        kind in prop::collection::vec(any_text(), 5), created in any_api_time(), last_used in any_api_time(),
    ) -> ApiKey {
        let [status, cloud, geography, endpoint, created_by] = <[String; 5]>::try_from(kind).unwrap();
        ApiKey {
            id: KeyId::new(id),
            project: ProjectId::new(project),
            name,
            masked_secret,
            attributes: KeyAttributes { status, cloud, geography, endpoint, created_by },
            created,
            last_used,
            ..ApiKey::default()
        }
    }
}

fn build_snapshot(records: &[ApiKey], texts: &[String]) -> ScrapeSnapshot {
    let org = |n: u32| OrgId::parse(&format!("{n:024x}")).unwrap();
    let at = Timestamp::from_second(1_790_000_000).unwrap();
    let (first, second) = records.split_at(records.len() / 2);
    let inventories = [first, second]
        .into_iter()
        .zip(0..)
        .map(|(records, n)| Inventory::from_records(org(n), at, records.iter().cloned()))
        .map(|inventory| Arc::new(inventory).into());
    let details = OrgDetails {
        name: Some(texts[0].clone()),
        projects: vec![Project {
            id: ProjectId::new(texts[1].clone()),
            name: texts[2].clone(),
            tag: Some(texts[2].clone()),
        }],
        owner_tag: None,
        limits: vec![ModelLimit {
            model_group: texts[3].clone(),
            cloud: texts[4].clone(),
            geography: texts[5].clone(),
            requests_per_minute: Some(7),
            tokens_per_minute: None,
        }],
        fetched_at: None,
    };
    let details = DetailsWithOwners::new(Arc::new(details), &KeyPolicy::default());
    let shown = InventorySnapshot {
        inventories: inventories.collect(),
        details: vec![(org(1), Arc::new(details))],
    };
    ScrapeSnapshot::new(shown, Arc::new(selection()), at)
}

/// Returns the expected info series of the keys.
fn expected_info_labels(records: &[ApiKey]) -> BTreeSet<BTreeMap<String, String>> {
    let (first, second) = records.split_at(records.len() / 2);
    let mut by_id: BTreeMap<(usize, &str), &ApiKey> = BTreeMap::new();
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
                ("model_endpoint", record.attributes.endpoint.clone()),
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
        let snapshot = build_snapshot(&records, &texts);
        let own = ExporterMetrics::new().unwrap();
        own.init_credential(&texts[0]);
        let text = String::from_utf8(encode_identity(Format::Text, &own, &snapshot)).unwrap();
        let series = time_independent_series(series_from_text(&text));
        let info = "mongodbatlas_ai_model_api_key_info";
        let shown: BTreeSet<_> = series
            .iter()
            .filter(|(name, ..)| name == info)
            .map(|(_, labels, _)| labels.clone())
            .collect();
        prop_assert_eq!(shown, expected_info_labels(&records), "the exported labels are equal to the keys");
        let open = String::from_utf8(encode_identity(Format::OpenMetrics, &own, &snapshot)).unwrap();
        prop_assert!(open.ends_with("# EOF\n"));
        prop_assert_eq!(time_independent_series(series_from_text(&open)), series.clone());
        for format in Format::ALL {
            let unpacked = encode_gzip(format, &own, &snapshot);
            let unpacked = series_from_text(std::str::from_utf8(&unpacked).unwrap());
            prop_assert_eq!(time_independent_series(unpacked), series.clone(), "{:?} compressed", format);
        }
    }
}

/// Returns the value of each series of a family, with its labels except `org_id`.
fn values_by_labels(series: &SeriesSet, family: &str) -> Vec<(BTreeMap<String, String>, String)> {
    let of_family = series.iter().filter(|(name, ..)| name == family);
    let values = of_family.map(|(_, labels, value)| {
        let mut labels = labels.clone();
        labels.remove("org_id");
        (labels, value.clone())
    });
    values.collect()
}

#[test]
fn info_series_are_1_and_limits_have_their_values() {
    let record = ApiKey {
        id: KeyId::new("key"),
        project: ProjectId::new("p"),
        ..ApiKey::default()
    };
    let texts = ["org", "project", "name", "group", "cloud", "geography"].map(str::to_owned);
    let snapshot = build_snapshot(&[record.clone(), record], &texts);
    let own = ExporterMetrics::new().unwrap();
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    for (format, encode) in Format::ALL
        .into_iter()
        .flat_map(|it| [encode_identity, encode_gzip].map(|encode| (it, encode)))
    {
        let text = String::from_utf8(encode(format, &own, &snapshot)).unwrap();
        let series = series_from_text(&text);
        let info: Vec<_> = series
            .iter()
            .filter(|(name, ..)| name.ends_with("_info"))
            .map(|(name, _, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            info,
            [
                ("atlas_ai_keys_exporter_build_info", "1.0"),
                ("mongodbatlas_ai_model_api_key_info", "1.0"),
                ("mongodbatlas_ai_model_api_key_info", "1.0"),
                ("mongodbatlas_organization_info", "1.0"),
                ("mongodbatlas_project_info", "1.0"),
            ],
            "{format:?}"
        );
        let limit = labels(&[
            ("model_group", "group"),
            ("cloud", "cloud"),
            ("geography", "geography"),
        ]);
        for (family, expected) in [
            (
                "mongodbatlas_organization_info",
                vec![(labels(&[("org_name", "org")]), "1.0")],
            ),
            (
                "mongodbatlas_project_info",
                vec![(
                    labels(&[
                        ("owner", "name"),
                        ("project_id", "project"),
                        ("project_name", "name"),
                    ]),
                    "1.0",
                )],
            ),
            (
                "mongodbatlas_ai_model_rate_limit_requests_per_minute",
                vec![(limit, "7.0")],
            ),
            (
                "mongodbatlas_ai_model_rate_limit_tokens_per_minute",
                Vec::new(),
            ),
        ] {
            let shown = values_by_labels(&series, family);
            let expected = expected.into_iter();
            let expected: Vec<_> = expected.map(|(it, value)| (it, value.to_owned())).collect();
            assert_eq!(shown, expected, "{format:?}: {family}");
        }
    }
}

#[test]
fn each_family_appears_once_in_every_format() {
    let record = |n: usize| ApiKey {
        id: KeyId::new(format!("key{n}")),
        project: ProjectId::new("p"),
        created: ApiTime::Valid(Timestamp::UNIX_EPOCH),
        last_used: ApiTime::Valid(Timestamp::UNIX_EPOCH),
        ..ApiKey::default()
    };
    let records: Vec<_> = (0..2000).map(record).collect();
    let snapshot = build_snapshot(&records, &[const { String::new() }; 6]);
    let own = ExporterMetrics::new().unwrap();
    let encoders = [encode_identity, encode_gzip];
    for (format, encode) in Format::ALL
        .into_iter()
        .flat_map(|it| encoders.map(|encode| (it, encode)))
    {
        let text = String::from_utf8(encode(format, &own, &snapshot)).unwrap();
        for head in ["# HELP ", "# TYPE "] {
            let mut names: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix(head)?.split(' ').next())
                .collect();
            names.sort_unstable();
            let repeated = names.windows(2).find(|pair| pair[0] == pair[1]);
            assert_eq!(repeated, None, "{format:?}: {head}");
            for family in ["mongodbatlas_ai_model_api_keys", "process_open_fds"] {
                assert!(names.contains(&family), "{format:?}: {head}: {names:?}");
            }
            assert!(names.len() > 14, "{format:?}: {head}: {names:?}");
        }
    }
}
