//! What goes wrong on demand: for an endpoint, an organization or a page, for a stretch of time
//! or a number of requests.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a request asks for, as faults and the log of requests name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SimEndpoint {
    /// `POST /api/oauth/token`.
    Token,
    /// `POST /api/oauth/revoke`.
    Revoke,
    /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiKeys`.
    AiModelApiKeys,
    /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiKeys/{apiKeyId}`.
    AiModelApiKey,
    /// `GET /api/atlas/v2/orgs`.
    Orgs,
    /// `GET /api/atlas/v2/orgs/{orgId}`.
    Org,
    /// `GET /api/atlas/v2/orgs/{orgId}/groups`.
    Groups,
    /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiRateLimits`.
    AiModelApiRateLimits,
    /// `GET /api/atlas/v2/rateLimits`.
    RateLimits,
    /// Anything else.
    Unknown,
}

/// The form of an error's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBodyFormat {
    /// Atlas' own error object.
    #[default]
    Json,
    /// A page, as a proxy answers.
    Html,
    /// Nothing.
    Empty,
    /// Half of what its length announces.
    Cut,
    /// One that never ends.
    Endless,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// An error status.
    Status {
        /// The HTTP status.
        status: u16,
        /// The form of the body.
        #[serde(default)]
        body: ErrorBodyFormat,
        /// `Retry-After`, in seconds.
        #[serde(default)]
        retry_after: Option<u32>,
    },
    /// Nothing comes for that long, then the good answer.
    Delay {
        /// How long.
        seconds: f64,
    },
    /// The body comes a few bytes at a time.
    Drip {
        /// Bytes at a time.
        bytes: usize,
        /// Milliseconds between two pieces.
        every_ms: u64,
    },
    /// The good status and headers, and half of the body.
    CutBody,
    /// The connection is reset.
    Reset,
    /// The good answer under another `Content-Type`.
    ContentType {
        /// The type to claim.
        value: String,
    },
    /// A body that is no JSON.
    InvalidJson,
    /// Each key's full secret in the answer, as in the preview's example.
    Secret,
    /// Members missing from every second key.
    MissingMembers {
        /// Their names in the answer, such as `apiKeyId`.
        members: Vec<String>,
    },
    /// Every third key has a `createdAt` and `lastUsedAt` that are no dates.
    BrokenDates,
    /// Each page begins with the last key of the page before it.
    RepeatKeys,
    /// Each page after the first leaves its first key out.
    SkipKeys,
    /// No `links` member.
    NoLinks,
    /// Links, but none to the next page.
    NoNextLink,
    /// At most so many results a page, however many were asked for.
    PageCap {
        /// The most.
        size: u32,
    },
    /// The good answer with each `old` in its text replaced by `new`, which can be what no serializer writes.
    Replace {
        /// What is replaced.
        old: String,
        /// What it is replaced by.
        new: String,
    },
    /// This text under the good status and headers.
    Body {
        /// The text.
        text: String,
    },
    /// No `totalCount` member.
    NoTotalCount,
    /// No `RateLimit-*` headers.
    NoRateLimitHeaders,
    /// `RateLimit-Limit: 0` and `RateLimit-Remaining: 0` with a good answer.
    RateLimitZero,
    /// A refusal for want of tokens says neither how long to wait nor how large the bucket is.
    BareRefusals,
    /// A `totalCount` that is off.
    TotalCount {
        /// What it says instead.
        value: i64,
    },
    /// A redirect.
    Redirect {
        /// Where to.
        location: String,
    },
    /// The good answer, packed with gzip.
    Gzip,
    /// A small gzip body that unpacks to 96 MiB.
    GzipBomb,
    /// A body that never ends.
    EndlessBody,
}

/// A fault: what goes wrong, where, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The endpoint that it concerns.
    pub endpoint: SimEndpoint,
    /// The organization that it concerns; every one when missing.
    #[serde(default)]
    pub org: Option<String>,
    /// The page that it concerns; every one when missing.
    #[serde(default)]
    pub page: Option<u32>,
    /// Seconds until it begins.
    #[serde(default)]
    pub after_seconds: f64,
    /// Seconds that it lasts; for ever when missing.
    #[serde(default)]
    pub for_seconds: Option<f64>,
    /// Requests that it strikes; all when missing.
    #[serde(default)]
    pub times: Option<u32>,
    /// What goes wrong.
    pub effect: Effect,
}

impl Fault {
    /// `effect` on every request to `endpoint`, from now on.
    pub fn new(endpoint: SimEndpoint, effect: Effect) -> Self {
        Self {
            endpoint,
            org: None,
            page: None,
            after_seconds: 0.0,
            for_seconds: None,
            times: None,
            effect,
        }
    }

    /// The same for one page alone.
    #[must_use]
    pub fn for_page(self, page: u32) -> Self {
        Self {
            page: Some(page),
            ..self
        }
    }

    /// The same for one organization alone.
    #[must_use]
    pub fn for_org(self, org: &str) -> Self {
        Self {
            org: Some(org.to_owned()),
            ..self
        }
    }

    /// The same for the next `times` requests alone.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }
}

/// The faults there are.
pub(crate) struct Faults {
    scheduled: Vec<(f64, Fault)>,
    started_at: Timestamp,
}

impl Faults {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            scheduled: Vec::new(),
            started_at: now,
        }
    }

    fn seconds_since_start(&self, now: Timestamp) -> f64 {
        now.duration_since(self.started_at).as_secs_f64()
    }

    pub(crate) fn add(&mut self, fault: Fault, now: Timestamp) {
        self.scheduled
            .push((self.seconds_since_start(now) + fault.after_seconds, fault));
    }

    pub(crate) fn clear(&mut self) {
        self.scheduled.clear();
    }

    pub(crate) fn list(&self) -> Vec<&Fault> {
        self.scheduled.iter().map(|(_, fault)| fault).collect()
    }

    /// What strikes this request; faults that are counted are counted here.
    pub(crate) fn effects_for(
        &mut self,
        endpoint: SimEndpoint,
        org: Option<&str>,
        page: Option<u32>,
        now: Timestamp,
    ) -> Vec<Effect> {
        let now = self.seconds_since_start(now);
        self.scheduled.retain(|(begin, fault)| {
            fault.times != Some(0) && fault.for_seconds.is_none_or(|length| now < begin + length)
        });
        let mut effects = Vec::new();
        for (begin, fault) in &mut self.scheduled {
            let concerned = fault.endpoint == endpoint
                && (fault.org.is_none() || fault.org.as_deref() == org)
                && (fault.page.is_none() || fault.page == page);
            if !concerned || now < *begin {
                continue;
            }
            match &mut fault.times {
                Some(0) => continue,
                Some(times) => *times -= 1,
                None => {}
            }
            effects.push(fault.effect.clone());
        }
        effects
    }
}
