use super::*;

fn org(n: u32) -> OrgId {
    OrgId::parse(&format!("{n:024x}")).expect("an id")
}

fn set(scope: Scope) -> EndpointSet {
    EndpointSet {
        id: "some-set".into(),
        endpoints: vec![Endpoint::AiModelApiKeys, Endpoint::AiModelApiRateLimits],
        scope,
        params: BucketParams::new(10, 5, 60).expect("plausible parameters"),
    }
}

/// A rate limiter with one credential.
struct Fixture {
    limiter: RateLimiter,
    credential: Arc<str>,
}

impl Fixture {
    fn new(sets: Vec<EndpointSet>) -> Self {
        let fixture = Self {
            limiter: RateLimiter::default(),
            credential: Arc::from("default"),
        };
        if !sets.is_empty() {
            fixture.set_endpoint_sets(sets);
        }
        fixture
    }

    fn set_endpoint_sets(&self, sets: Vec<EndpointSet>) {
        self.limiter.set_endpoint_sets(&self.credential, sets);
    }

    async fn acquire(&self, endpoint: Endpoint, org: &OrgId) -> RequestPermit {
        let target = RequestTarget {
            credential: &self.credential,
            endpoint,
            org: Some(org),
        };
        self.limiter.acquire(target).await
    }

    /// Sends a request for keys that gets a response without rate limit headers. Returns the wait.
    async fn request(&self, endpoint: Endpoint, org: &OrgId) -> Duration {
        let permit = self.acquire(endpoint, org).await;
        let waited = permit.waited();
        permit.on_response(None, None);
        waited
    }

    fn rate(&self, org: &OrgId) -> BucketRate {
        self.limiter.sustained_rate(RequestTarget {
            credential: &self.credential,
            endpoint: KEYS,
            org: Some(org),
        })
    }
}

const KEYS: Endpoint = Endpoint::AiModelApiKeys;

#[tokio::test(start_paused = true)]
async fn endpoints_of_a_set_share_one_bucket() {
    let fixture = Fixture::new(vec![set(Scope::Organization)]);
    let started_at = Instant::now();
    for n in 0..9 {
        let endpoint = if n % 2 == 0 {
            KEYS
        } else {
            Endpoint::AiModelApiRateLimits
        };
        let waited = fixture.request(endpoint, &org(1)).await;
        assert_eq!(waited.is_zero(), n < 8, "request {n} waited {waited:?}");
    }
    assert_eq!(started_at.elapsed(), Duration::from_mins(1));
    let waited = fixture.request(KEYS, &org(2)).await;
    assert_eq!(
        waited,
        Duration::ZERO,
        "another organization has another bucket"
    );
}

#[tokio::test(start_paused = true)]
async fn credential_bucket_is_shared_by_its_organizations() {
    let fixture = Fixture::new(Vec::new());
    for n in 0..4 {
        fixture.request(KEYS, &org(n)).await;
    }
    fixture.set_endpoint_sets(vec![set(Scope::Credential)]);
    for n in 0..8 {
        assert_eq!(fixture.request(KEYS, &org(n)).await, Duration::ZERO);
    }
    let waited = fixture.request(KEYS, &org(9)).await;
    assert_eq!(waited, Duration::from_mins(1));
    let rate = fixture.rate(&org(3));
    let per_minute = rate.per_second.map(|rate| (rate * 60.0).round());
    assert_eq!(per_minute, Some(4.0));
    assert_eq!(rate.key, fixture.rate(&org(7)).key);
}

#[tokio::test(start_paused = true)]
async fn correlated_429s_merge_buckets() {
    let fixture = Fixture::new(Vec::new());
    let rejection = Rejection {
        retry_after: Some(Duration::from_secs(30)),
        is_empty: true,
        params: BucketParams::new(10, 5, 60),
    };
    for n in 0..2 {
        let permit = fixture.acquire(KEYS, &org(n)).await;
        fixture.limiter.on_rejected(permit, rejection);
    }
    let rate = fixture.rate(&org(7));
    assert_eq!((rate.key.org, rate.per_second.is_some()), (None, true));
    let waited = fixture.acquire(KEYS, &org(7)).await.waited();
    assert!(waited >= Duration::from_secs(30), "{waited:?}");
    tokio::time::advance(SHARED_ASSUMPTION_TTL).await;
    assert_eq!(fixture.rate(&org(7)).key.org, Some(org(7)));
}

#[tokio::test(start_paused = true)]
async fn permits_are_granted_in_request_order() {
    let fixture = Arc::new(Fixture::new(vec![set(Scope::Credential)]));
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..30 {
        let (fixture, order) = (Arc::clone(&fixture), Arc::clone(&order));
        tasks.spawn(async move {
            fixture.request(KEYS, &org(n)).await;
            order.lock().expect("no panic").push(n);
        });
        tokio::task::yield_now().await;
    }
    tasks.join_all().await;
    let order = order.lock().expect("no panic").clone();
    assert_eq!(order, (0..30).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn dropped_permit_is_not_in_flight() {
    let fixture = Fixture::new(vec![set(Scope::Organization)]);
    drop(fixture.acquire(KEYS, &org(1)).await);
    let in_flight = fixture.acquire(KEYS, &org(1)).await;
    let permit = fixture.acquire(KEYS, &org(1)).await;
    permit.on_response(Some(10), Some(7));
    // The request in flight may take one of seven tokens, and two are reserved.
    for n in 0..5 {
        let waited = fixture.request(KEYS, &org(1)).await;
        assert_eq!(waited.is_zero(), n < 4, "request {n}");
    }
    drop(in_flight);
}
