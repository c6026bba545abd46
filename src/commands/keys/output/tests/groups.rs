use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{ReportedKey, any_keys, any_projects, write};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn groups_contain_each_key_once(keys in any_keys(), projects in any_projects()) {
        for by in ["owner", "project", "org"] {
            for exempt in ["true", "false"] {
                let flags = ["--output=json", "--group-by", by, "--idle=30d", &format!("--include-exempt={exempt}")];
                let (text, _) = write(&keys, &projects, &flags);
                let groups: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
                let mut ids = BTreeSet::new();
                let mut sums = [0_usize; 5];
                for group in &groups {
                    let rows = group["rows"].as_array().expect("rows");
                    prop_assert_eq!(group["keys"].as_u64(), Some(rows.len() as u64));
                    for row in rows {
                        prop_assert!(ids.insert(row["api_key_id"].to_string()));
                        for name in ["owner", "project_id", "org_id"] {
                            prop_assert!(group[name].is_null() || group[name] == row[name]);
                        }
                    }
                    let names = ["keys", "never_used", "idle", "disabled", "exempt"];
                    for (sum, name) in sums.iter_mut().zip(names) {
                        *sum += usize::try_from(group[name].as_u64().expect("a number")).expect("small");
                    }
                }
                let idle: Vec<&ReportedKey> = keys.iter().filter(|key| key.idle_days >= 30).collect();
                let count = |condition: &dyn Fn(&ReportedKey) -> bool| idle.iter().filter(|key| condition(key)).count();
                let listed = |key: &ReportedKey| exempt == "true" || !key.is_exempt;
                let is_enabled = |key: &ReportedKey| !["INACTIVE", "deleted"].contains(&key.status);
                prop_assert_eq!(sums, [
                    count(&listed),
                    count(&|key| !key.is_exempt && is_enabled(key) && !key.was_used),
                    count(&|key| !key.is_exempt && is_enabled(key) && key.was_used),
                    count(&|key| !key.is_exempt && key.status == "INACTIVE"),
                    count(&|key| key.is_exempt),
                ]);
            }
        }
    }
}

#[test]
fn limit_applies_to_each_group() {
    let key = |index: usize, project: usize| ReportedKey {
        id: format!("k{index}"),
        name: format!("name{index}"),
        project,
        idle_days: i64::try_from(index).expect("small"),
        was_used: true,
        status: "ACTIVE",
        is_exempt: index == 0,
    };
    let keys: Vec<ReportedKey> = (0..9).map(|index| key(index, index % 2)).collect();
    let owner = |name: &str, owner: &str| (name.to_owned(), owner.to_owned());
    let projects = [owner("one", "team b"), owner("two", "Team a")];
    let table = |flags: &[&str]| write(&keys, &projects, flags).0;
    let text = table(&[
        "--group-by=owner",
        "--limit=2",
        "--metrics.idle-thresholds=5d",
    ]);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0].join(" "),
        "OWNER KEYS NEVER USED IDLE 5D DISABLED EXEMPT"
    );
    assert_eq!(lines[1].join(" "), "Team a 4 0 2 0 0");
    assert_eq!(lines[2].join(" "), "team b 4 0 2 0 1");
    assert_eq!(lines[3].join(" "), "Total 8 0 4 0 1");
    assert!(text.contains("\nTeam a: 4 keys, 2 listed\n"), "{text}");
    assert_eq!(text.matches("name").count(), 4, "{text}");
    let summary = "8 of 9 keys, as of 2027-01-15T08:00:00Z: 0 never used, 4 idle for 5d or longer, 0 disabled, 1 exempt (not listed)";
    assert_eq!(text.lines().last(), Some(summary));
    let counts = table(&["--group-by=org", "--limit=0"]);
    assert_eq!(counts.lines().count(), 5, "{counts}");
    let first = table(&["--sort=name", "--limit=3"]);
    let names: Vec<&str> = first
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    assert_eq!(names, ["USED", "name1", "name2", "name3", "9"], "{first}");
    assert!(first.contains("8 of 9 keys, 3 listed, as of"), "{first}");
    let csv = table(&["--output=csv", "--group-by=project"]);
    assert_eq!(
        csv,
        "org_id,org_name,project_id,project_name,owner,keys,never_used,idle,disabled,exempt\n\
         0000000000000000000000aa,'=org|,p0,one,team b,4,0,1,0,1\n\
         0000000000000000000000aa,'=org|,p1,two,Team a,4,0,1,0,0\n"
    );
}
