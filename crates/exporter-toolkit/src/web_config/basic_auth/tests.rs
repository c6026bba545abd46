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
        "$2y$32$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi",
        &good[..59],
        &good.replace('Q', "!"),
    ] {
        let error = BcryptHash::parse(bad).err().expect(bad);
        assert!(
            error.contains("htpasswd") && (bad.is_empty() || !error.contains(bad)),
            "{error}"
        );
    }
    assert!(
        BcryptHash::parse(&good.replace("$10$", "$31$")).is_ok_and(|hash| hash.warning().is_some())
    );
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
async fn correct_passwords_are_cached_and_wrong_ones_are_not() {
    let users = users(&[("ada", 4), ("bob", 4)]);
    let authenticator = Authenticator::default();
    let check = async |text| check(&authenticator, &users, text).await;
    assert_eq!(check("ada:password of ada").await, Ok(()));
    assert_eq!(authenticator.verified.lock().len(), 1);
    assert_eq!(check("ada:password of ada").await, Ok(()));
    for wrong in [
        "ada:password of bob",
        "ada:",
        "bob:password of ada",
        "eve:password of ada",
        ":",
        "ada:\0",
    ] {
        assert_eq!(check(wrong).await, Err(AuthError::Unauthorized), "{wrong}");
    }
    assert_eq!(authenticator.verified.lock().len(), 1);
    // While no permit is free, only the cached password is accepted.
    let _permits = block(&authenticator);
    assert_eq!(check("ada:password of ada").await, Ok(()));
    assert_eq!(check("bob:password of bob").await, Err(AuthError::Busy));
    // An unknown user is checked like any other.
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
    // bob has another hash of the same password, and cyd is removed.
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
    // One user with a slow hash does not make every guess slow.
    let slow = "$2y$31$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
    let slow = ("bob".to_owned(), BcryptHash::parse(slow).expect("a hash"));
    let users = BasicAuthUsers::new(vec![("ada".to_owned(), hash("x", 4)), slow.clone()]);
    assert_eq!((work(&users, "ada"), work(&users, "eve")), (16, 16));
    assert_eq!(work(&BasicAuthUsers::new(vec![slow]), "eve"), 1 << 31);
}
