use super::*;

fn flag(name: &str) -> &'static Flag {
    FLAGS.iter().find(|flag| flag.name == name).expect("a flag")
}

#[test]
fn clap_command_is_consistent() {
    clap_command().debug_assert();
}

#[test]
fn flags_take_precedence_over_environment_variables() {
    let environment = Environment::from_vars([
        ("ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT", "7s"),
        ("MONGODB_ATLAS_ORG_ID", "a, b,"),
    ]);
    let args = Args::parse(["x", "--atlas.page-size", "3"]).expect("valid");
    let given = |name| {
        let found = args.lookup(flag(name), &environment);
        found.map(|found| (found.values, found.source))
    };
    assert_eq!(
        given("atlas.page-size"),
        Some((vec!["3".into()], ValueSource::Flag("atlas.page-size")))
    );
    let variable = ValueSource::EnvVar("ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT");
    assert_eq!(given("atlas.timeout"), Some((vec!["7s".into()], variable)));
    assert_eq!(given("atlas.poll-interval"), None);
    assert_eq!(
        given("atlas.org-id").map(|(values, _)| values),
        Some(vec!["a".into(), "b".into()])
    );
}

#[test]
fn flags_are_accepted_before_and_after_the_command() {
    for line in [
        ["x", "--log.level", "debug", "check"],
        ["x", "check", "--log.level", "debug"],
    ] {
        let args = Args::parse(line).expect("valid");
        assert_eq!(args.command, Command::Check);
        let given = args.lookup(flag("log.level"), &Environment::from_vars([("", "")]));
        assert_eq!(given.map(|given| given.values), Some(vec!["debug".into()]));
    }
    assert!(
        Args::parse(["x", "--sim.seed", "1"]).is_err(),
        "only demo and sim have flags of the simulated Atlas"
    );
}

#[test]
fn boolean_flags_need_no_value() {
    let value = |line: &[&str]| {
        let args = Args::parse(line.iter().copied()).expect("valid");
        let given = args.lookup(
            flag("atlas.discover-orgs"),
            &Environment::from_vars([("", "")]),
        );
        (args.command, given.map(|given| given.values))
    };
    assert_eq!(
        value(&["x", "--atlas.discover-orgs", "check"]),
        (Command::Check, Some(vec!["true".into()])),
        "the next argument is not the value"
    );
    assert_eq!(
        value(&["x", "--atlas.discover-orgs=false"]),
        (Command::Serve, Some(vec!["false".into()]))
    );
}
