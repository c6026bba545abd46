use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{ReportedKey, any_keys, any_projects, is_plain_id, write};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn commands_have_plain_ids_and_harmless_comments(keys in any_keys(), projects in any_projects()) {
        for flags in [&[][..], &["--include-exempt"]] {
            let all = [&["--output=commands", "--idle=0s", "--never-used=false", "--status=ACTIVE", "--status=INACTIVE", "--status=deleted", "--status==odd", "--status="][..], flags].concat();
            let (text, refused) = write(&keys, &projects, &all);
            let mut deleted = BTreeSet::new();
            for line in text.lines() {
                let (command, comment) = line.split_once('#').expect("a comment");
                let is_harmless = |letter: char| letter.is_alphanumeric() || " _.:/@+,\u{fffd}-#();'".contains(letter);
                prop_assert!(comment.chars().all(is_harmless), "{}", line);
                if command.is_empty() {
                    continue;
                }
                prop_assert!(!comment.contains(" -"), "{}", line);
                let words: Vec<&str> = command.split(' ').collect();
                let [program, "api", "aiModelApiKeys", "deleteGroupModelKey", "--groupId", project, "--apiKeyId", key, ""] = words[..] else {
                    panic!("{line}");
                };
                prop_assert_eq!(program, "atlas");
                prop_assert!(is_plain_id(project) && is_plain_id(key));
                deleted.insert((project.to_owned(), key.to_owned()));
            }
            let may_be_deleted = |key: &&ReportedKey| !key.is_exempt && key.status != "deleted";
            let (plain, others): (Vec<&ReportedKey>, Vec<&ReportedKey>) =
                keys.iter().filter(may_be_deleted).partition(|key| is_plain_id(&key.id));
            let plain: BTreeSet<_> =
                plain.iter().map(|key| (format!("p{}", key.project), key.id.clone())).collect();
            prop_assert_eq!(deleted, plain);
            prop_assert_eq!(refused, others.len());
        }
    }
}

#[test]
fn plain_ids_are_words_and_not_flags() {
    for id in ["a86r5kwrfsk5r5ku5tgvhmpj", "A_b-1", "_", "0"] {
        assert!(is_plain_id(id), "{id}");
    }
    for id in [
        "", "-", "-rf", "--help", "a b", "a\n", "é", "a.b", "$(x)", "a#b", "a'",
    ] {
        assert!(!is_plain_id(id), "{id:?}");
    }
}

#[test]
fn commands_give_the_reason_for_each_key_without_command() {
    let key = |id: &str, status: &'static str, is_exempt: bool| ReportedKey {
        id: id.to_owned(),
        name: "search (prod) -x".to_owned(),
        project: 0,
        idle_days: 123,
        was_used: true,
        status,
        is_exempt,
    };
    let keys = [
        key("good", "ACTIVE", false),
        key("-x", "ACTIVE", false),
        key("removed", "DELETED", false),
        key("drill", "ACTIVE", true),
    ];
    let projects = [("p".to_owned(), "team; x".to_owned())];
    let flags = [
        "--output=commands",
        "--idle=90d",
        "--include-exempt",
        "--sort=name",
    ];
    let (text, refused) = write(&keys, &projects, &flags);
    assert_eq!(refused, 1);
    let comment = "search \u{fffd}prod\u{fffd} \u{fffd}x (idle 123 days, owner team\u{fffd} x)";
    let mut lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("# Review each line before running this file with sh."),
        "{text}"
    );
    assert!(lines[1].starts_with("# 4 of 4 keys, as of "), "{text}");
    lines.drain(..2);
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            &*format!("# already deleted: key removed in project p0: {comment}"),
            &*format!(
                "# exempt until 2030-01-01, drill\u{fffd}\u{fffd}\u{fffd}touch x\u{fffd}: key drill in project p0: {comment}"
            ),
            &*format!(
                "# refused, unsafe id (expected letters, digits, _ and -): key \u{fffd}x in project p0: {comment}"
            ),
            &*format!(
                "atlas api aiModelApiKeys deleteGroupModelKey --groupId p0 --apiKeyId good # {comment}"
            ),
        ],
        "{text}"
    );
}
