use super::*;
use mongodb_atlas_client::{Endpoint, ErrorKind};

fn org(n: usize) -> OrgId {
    OrgId::parse(&format!("{n:024x}")).expect("an id")
}

fn secrets() -> Vec<ClientSecret> {
    vec![ClientSecret {
        id: "69681d39c9e8cfd375386316".to_owned(),
        expires_at: Timestamp::UNIX_EPOCH,
        last_used_at: None,
    }]
}

fn timeout() -> Error {
    let (limit, proxy) = (Duration::ZERO, None);
    ErrorKind::Timeout { limit, proxy }.with_endpoint(Endpoint::ServiceAccount)
}

fn new_state() -> ClientSecretsState {
    ClientSecretsState {
        stored: ClientSecretsSnapshot::default(),
        due_at: Instant::now(),
        is_fetching: false,
    }
}

/// Returns the numbers of the organizations to try, of those from 0 to `count`.
fn next_orgs(state: &ClientSecretsState, count: usize) -> Vec<usize> {
    let orgs: Vec<OrgId> = (0..count).map(org).collect();
    let next = state.next_orgs(&orgs.iter().collect());
    let number = |next: &OrgId| orgs.iter().position(|org| org == next);
    next.iter().map(|next| number(next).unwrap_or(99)).collect()
}

fn respond(
    state: &mut ClientSecretsState,
    n: usize,
    result: Result<Option<Vec<ClientSecret>>, Error>,
) {
    state.on_fetched(&org(n), result, Timestamp::UNIX_EPOCH);
}

#[test]
fn search_continues_after_the_last_organization_and_wraps_around() {
    let mut state = new_state();
    assert_eq!(next_orgs(&state, 0), [0; 0]);
    assert_eq!(next_orgs(&state, 3), [0, 1, 2]);
    assert_eq!(next_orgs(&state, 25), (0..10).collect::<Vec<_>>());
    respond(&mut state, 9, Ok(None));
    assert_eq!(next_orgs(&state, 25), (10..20).collect::<Vec<_>>());
    // An organization that always fails does not end the search.
    respond(&mut state, 12, Err(timeout()));
    assert_eq!(next_orgs(&state, 25), (13..23).collect::<Vec<_>>());
    respond(&mut state, 22, Ok(None));
    let expected = [23, 24, 0, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(next_orgs(&state, 25), expected);
    // Organizations may be removed during the search.
    assert_eq!(next_orgs(&state, 4), [0, 1, 2, 3]);
}

#[test]
fn organization_of_the_account_is_tried_first() {
    let mut state = new_state();
    respond(&mut state, 5, Ok(Some(secrets())));
    assert_eq!(state.secrets(), secrets());
    assert_eq!(next_orgs(&state, 8), [5, 6, 7, 0, 1, 2, 3, 4]);
    assert_eq!(next_orgs(&state, 2), [99, 0, 1], "even if it is not polled");
    respond(&mut state, 5, Err(timeout()));
    assert_eq!(
        state.secrets(),
        secrets(),
        "a failure removes no known secrets"
    );
    assert_eq!(next_orgs(&state, 8)[0], 5);
    respond(&mut state, 4, Ok(None));
    assert_eq!(state.secrets(), [], "no organization has the account");
    assert_eq!(next_orgs(&state, 8)[0], 5);
}

#[test]
fn failure_of_another_organization_removes_secrets() {
    let mut state = new_state();
    respond(&mut state, 5, Ok(Some(secrets())));
    // The organization before it has responded that the account is unknown.
    respond(&mut state, 6, Err(timeout()));
    assert_eq!(state.secrets(), []);
    respond(&mut state, 7, Ok(Some(secrets())));
    assert_eq!(next_orgs(&state, 8)[0], 7);
}
