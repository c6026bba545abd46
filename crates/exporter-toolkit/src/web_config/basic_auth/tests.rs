use futures_util::FutureExt as _;

use super::*;
use crate::web_config::bcrypt_queue::BcryptPermit;

fn credentials(text: &str) -> Option<BasicCredentials> {
    let encoded = STANDARD.encode(text);
    BasicCredentials::parse(format!("Basic {encoded}").as_bytes())
}

fn hash(password: &str, cost: u32) -> BcryptHash {
    BcryptHash::parse(&bcrypt::hash(password, cost).expect("a hash")).expect("a hash")
}

fn users(costs: &[(&str, u32)]) -> BasicAuthUsers {
    let hashes = costs.iter().map(|(name, cost)| {
        let hash = hash(&format!("password of {name}"), *cost);
        ((*name).to_owned(), hash)
    });
    BasicAuthUsers::new(hashes.collect())
}

async fn check(
    authenticator: &Authenticator,
    users: &BasicAuthUsers,
    text: &str,
) -> Result<(), AuthError> {
    let credentials = credentials(text).expect("credentials");
    authenticator
        .check(users, &credentials, ClientNetwork::default())
        .await
}

/// Takes all permits, so that only cached passwords are accepted.
fn block(authenticator: &Authenticator) -> Vec<BcryptPermit> {
    let mut permits = Vec::new();
    while let Some(permit) = authenticator
        .queue
        .acquire(ClientNetwork::default())
        .now_or_never()
    {
        permits.extend(permit);
    }
    permits
}

#[test]
fn bcrypt_hashes_are_parsed() {
    let good = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
    assert_eq!(BcryptHash::parse(good).map(|hash| hash.cost), Ok(10));
    for minor in ["$2a$", "$2b$", "$2x$", "$2$"] {
        assert!(
            BcryptHash::parse(&good.replace("$2y$", minor)).is_ok(),
            "{minor}"
        );
    }
    for bad in [
        "",
        "secret",
        "$1$x",
        "$2y$3$",
        "$2y$03$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi",
        "$2y$32$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi",
        &good[..59],
        &good.replace('Q', "!"),
    ] {
        let error = BcryptHash::parse(bad).err().expect(bad);
        assert!(
            error.starts_with("invalid bcrypt hash: ") && (bad.is_empty() || !error.contains(bad)),
            "{error}"
        );
    }
}

/// Returns a hash with this cost that no password matches.
fn hash_with_cost(cost: u32) -> BcryptHash {
    let text = format!("$2y${cost:02}$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi");
    BcryptHash::parse(&text).expect("a hash")
}

#[test]
fn hash_warning_begins_at_cost_15() {
    for (cost, is_slow) in [(4, false), (14, false), (15, true), (31, true)] {
        let warning = hash_with_cost(cost).warning();
        assert_eq!(warning.is_some(), is_slow, "{cost}");
    }
}

#[test]
fn authorization_headers_are_parsed() {
    let parsed = credentials("ada:a:b").expect("credentials");
    assert_eq!(
        (parsed.user.as_str(), parsed.password.as_str()),
        ("ada", "a:b")
    );
    assert!(credentials("ada").is_none());
    for bad in [
        &b"Basic"[..],
        b"Basic !",
        b"Bearer YTpi",
        b"",
        b"Basic \xff",
        b"basic /w==",
    ] {
        assert!(BasicCredentials::parse(bad).is_none());
    }
    assert!(
        BasicCredentials::parse(b"bAsIc  YTpi ").is_some(),
        "the scheme is case-insensitive"
    );
}

#[tokio::test(start_paused = true)]
async fn only_correct_passwords_are_cached() {
    let users = users(&[("ada", 4), ("bob", 4)]);
    let authenticator = Authenticator::default();
    let check = async |text| check(&authenticator, &users, text).await;
    assert_eq!(check("ada:password of ada").await, Ok(()));
    assert_eq!(authenticator.verified.lock().len(), 1);
    assert_eq!(check("ada:password of ada").await, Ok(()));
    for incorrect in [
        "ada:password of bob",
        "ada:",
        "bob:password of ada",
        "eve:password of ada",
        ":",
        "ada:\0",
    ] {
        assert_eq!(
            check(incorrect).await,
            Err(AuthError::Unauthorized),
            "{incorrect}"
        );
    }
    assert_eq!(authenticator.verified.lock().len(), 1);
    // While no permit is free, only the cached password is accepted.
    let _permits = block(&authenticator);
    assert_eq!(check("ada:password of ada").await, Ok(()));
    assert_eq!(check("bob:password of bob").await, Err(AuthError::Busy));
    // The password of an unknown user is checked as well.
    assert_eq!(check("eve:password of eve").await, Err(AuthError::Busy));
}

#[tokio::test(start_paused = true)]
async fn reload_keeps_cached_passwords_of_unchanged_hashes() {
    let authenticator = Authenticator::default();
    let before = users(&[("ada", 4), ("bob", 4), ("cyd", 4)]);
    for name in ["ada", "bob", "cyd"] {
        let text = format!("{name}:password of {name}");
        assert_eq!(check(&authenticator, &before, &text).await, Ok(()));
    }
    let mut after = BasicAuthUsers::new(before.hashes.clone());
    // The user bob gets another hash of the same password, and cyd is removed.
    after.hashes[1].1 = hash("password of bob", 4);
    after.hashes.truncate(2);
    authenticator.retain_users(Some(&after));
    assert_eq!(authenticator.verified.lock().len(), 2);
    let _permits = block(&authenticator);
    for (name, result) in [
        ("ada", Ok(())),
        ("bob", Err(AuthError::Busy)),
        ("cyd", Err(AuthError::Busy)),
    ] {
        let text = format!("{name}:password of {name}");
        assert_eq!(check(&authenticator, &after, &text).await, result, "{name}");
    }
    authenticator.retain_users(None);
    assert!(authenticator.verified.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn password_check_times_out_after_20_seconds() {
    let users = users(&[("ada", 4)]);
    for (released_after, expected) in [(19, Ok(())), (21, Err(AuthError::Busy))] {
        let authenticator = Authenticator::default();
        let permits = block(&authenticator);
        let release = async {
            tokio::time::sleep(Duration::from_secs(released_after)).await;
            drop(permits);
        };
        let login = check(&authenticator, &users, "ada:password of ada");
        let (result, ()) = tokio::join!(login, release);
        assert_eq!(result, expected, "{released_after}");
    }
}

#[test]
fn failed_checks_cost_the_same_for_every_name() {
    let work = |users: &BasicAuthUsers, name: &str| {
        let hash = users.get(name);
        let real: u64 = hash.map_or(0, |hash| 1 << hash.cost);
        let decoys = users.decoy_costs(hash).map(|cost| 1_u64 << cost);
        real + decoys.sum::<u64>()
    };
    for costs in [
        &[("ada", 4)][..],
        &[("ada", 4), ("bob", 4)],
        &[("ada", 4), ("bob", 7), ("cyd", 5)],
    ] {
        let (users, reloaded) = (users(costs), users(costs));
        let expected = 1 << costs.iter().map(|(_, cost)| cost).max().expect("a cost");
        for name in ["ada", "bob", "cyd", "eve", "", "mallory"] {
            assert_eq!(work(&users, name), expected, "{name}");
            assert_eq!(work(&reloaded, name), expected, "{name}");
        }
    }
    // One user with a slow hash does not make every failed check slow.
    for (other, cost) in [(14, 14), (15, 4), (31, 4)] {
        let hashes = [("ada", 4), ("bob", other)]
            .map(|(name, cost)| (name.to_owned(), hash_with_cost(cost)));
        let users = BasicAuthUsers::new(hashes.to_vec());
        for name in ["ada", "eve"] {
            assert_eq!(work(&users, name), 1 << cost, "{name} beside {other}");
        }
    }
    let slow = BasicAuthUsers::new(vec![("bob".to_owned(), hash_with_cost(31))]);
    assert_eq!(work(&slow, "eve"), 1 << 31);
}
