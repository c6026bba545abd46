//! The stored token of an earlier process, and revocation.

use super::*;

#[tokio::test(start_paused = true)]
async fn stored_token_is_used_and_renewed_once_ahead_of_its_expiry() {
    for (left, renewed_at) in [
        (HOUR, 3300),
        (302, 2),
        // The stored expiry can be too late, if the clock was ahead when the token was stored.
        (48 * HOUR, 24 * HOUR - 300),
    ] {
        let fixture = TokenFixture::new(TokenReply::Issued(HOUR));
        let expires_at = fixture.store_token(Duration::from_secs(left)).await;
        assert_eq!(
            fixture.use_until(renewed_at + 600).await,
            [(0, token("stored")), (renewed_at, token("issued-1"))],
            "{left}"
        );
        assert_eq!(fixture.recorder.request_times(), [renewed_at], "{left}");
        let first = lock(&fixture.recorder.events).first().cloned();
        assert_eq!(first, Some((0, TokenEvent::ExpiryChanged(expires_at))));
    }
}

#[tokio::test(start_paused = true)]
async fn stored_token_is_used_until_its_expiry_while_renewal_fails() {
    let fixture = TokenFixture::new(TokenReply::Failed(503, None));
    fixture.store_token(Duration::from_secs(HOUR)).await;
    assert_eq!(
        fixture.use_until(3700).await,
        [(0, token("stored")), (3600, None)]
    );
}

#[tokio::test(start_paused = true)]
async fn stored_token_that_expires_soon_or_belongs_to_another_client_is_not_used() {
    for left in [0, 1, 300] {
        let fixture = TokenFixture::new(TokenReply::Failed(503, None));
        fixture.store_token(Duration::from_secs(left)).await;
        assert_eq!(fixture.token().await.ok(), None, "{left}");
    }
    let owner = TokenFixture::new(TokenReply::Issued(HOUR));
    for (id, base_url, expected) in [
        ("an-id", "https://atlas.invalid/", "stored"),
        ("another-id", "https://atlas.invalid/", "issued-1"),
        ("an-id", "https://other.invalid/", "issued-1"),
    ] {
        owner.store_token(Duration::from_secs(HOUR)).await;
        let fixture = TokenFixture::with_client(id, base_url, TokenReply::Issued(HOUR));
        *lock(&fixture.recorder.stored) = lock(&owner.recorder.stored).take();
        assert_eq!(
            fixture.token().await.ok(),
            token(expected),
            "{id} {base_url}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn revocation_clears_the_store_before_the_request() {
    let fixture = TokenFixture::new(TokenReply::Issued(HOUR));
    fixture.provider.revoke_token(&fixture.transport).await;
    assert!(
        lock(&fixture.recorder.events).is_empty(),
        "there is no token yet"
    );
    fixture.use_until(0).await;
    lock(&fixture.recorder.events).clear();
    fixture.provider.revoke_token(&fixture.transport).await;
    let expected = [TokenEvent::Cleared, TokenEvent::RevocationRequested];
    assert_eq!(
        *lock(&fixture.recorder.events),
        expected.map(|event| (1, event))
    );
    fixture.provider.revoke_token(&fixture.transport).await;
    assert_eq!(lock(&fixture.recorder.events).len(), 2, "revoked once");
}
