//! Faults: errors and deviations for an endpoint, an organization or a page, limited in time or number of requests.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::SimEndpoint;

/// Body of an error response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBodyFormat {
    /// Error object of Atlas.
    #[default]
    Json,
    /// An HTML page, as from a proxy.
    Html,
    /// No body.
    Empty,
    /// Half of the announced length.
    Truncated,
    /// An endless body.
    Endless,
}

/// Effect of a fault on a response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// Responds with an error status.
    Status {
        /// The HTTP status.
        status: u16,
        /// Format of the body.
        #[serde(default)]
        body: ErrorBodyFormat,
        /// `Retry-After`, in seconds.
        #[serde(default)]
        retry_after: Option<u32>,
    },
    /// Delays the response.
    Delay {
        /// Delay in seconds.
        seconds: f64,
    },
    /// Sends the body slowly, in chunks.
    Drip {
        /// Chunk size in bytes.
        bytes: usize,
        /// Milliseconds before each chunk.
        every_ms: u64,
    },
    /// Sends half of the body and closes the connection.
    TruncatedBody,
    /// Resets the connection.
    Reset,
    /// Replaces the `Content-Type`.
    ContentType {
        /// Media type.
        value: String,
    },
    /// Sends a body of invalid JSON.
    InvalidJson,
    /// Adds the full secret to each key, as in the example of the preview API, or to each secret of the service account.
    Secret,
    /// Removes fields from every second key, or from every second secret of the service account, starting with the first.
    MissingFields {
        /// Names of the fields, such as `apiKeyId`.
        fields: Vec<String>,
    },
    /// Makes the timestamps of every third key invalid, or of every second secret, starting with the first.
    InvalidTimestamps,
    /// Replaces the tags of each project by values of other types, so that no project has an owner.
    WrongTagTypes,
    /// Gives each project the tag `owner` twice, with different values.
    DuplicateOwnerTag,
    /// Gives each project tags of the maximum length, 255 characters.
    LongTagValues,
    /// Gives each project tags with line breaks, escape sequences and other control characters.
    ControlCharacterTags,
    /// Repeats the last key of a page as the first of the next.
    RepeatKeys,
    /// Omits the first key of each page but the first.
    SkipKeys,
    /// Omits `links`.
    NoLinks,
    /// Omits the link to the next page.
    NoNextLink,
    /// Limits the page size below the requested one.
    PageCap {
        /// Maximum number of results.
        size: u32,
    },
    /// Replaces each `old` in the serialized body by `new`, which may be invalid JSON.
    Replace {
        /// Text to replace.
        old: String,
        /// Replacement.
        new: String,
    },
    /// Replaces the body.
    Body {
        /// New body.
        text: String,
    },
    /// Omits `totalCount`.
    NoTotalCount,
    /// Omits the `RateLimit-*` headers.
    NoRateLimitHeaders,
    /// Sets both `RateLimit-*` headers of successful responses to 0.
    RateLimitZero,
    /// Omits wait time and bucket parameters from 429 responses.
    BareRejections,
    /// Replaces `totalCount`.
    TotalCount {
        /// Value to report.
        value: i64,
    },
    /// Responds with a redirect.
    Redirect {
        /// Target.
        location: String,
    },
    /// Compresses the body with gzip.
    Gzip,
    /// Sends a small gzip body that decompresses to 96 MiB.
    GzipBomb,
    /// Sends an endless body.
    EndlessBody,
}

impl Effect {
    /// Returns an error status with the error object of Atlas.
    pub fn error_status(status: u16) -> Self {
        Self::Status {
            status,
            body: ErrorBodyFormat::Json,
            retry_after: None,
        }
    }
}

/// An effect, the requests that it applies to, and its duration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Endpoint.
    pub endpoint: SimEndpoint,
    /// Organization id; all organizations if `None`.
    #[serde(default)]
    pub org: Option<String>,
    /// Page number; all pages if `None`.
    #[serde(default)]
    pub page: Option<u32>,
    /// Delay in seconds before the fault becomes active.
    #[serde(default)]
    pub after_seconds: f64,
    /// Duration in seconds; unlimited if `None`.
    #[serde(default)]
    pub for_seconds: Option<f64>,
    /// Number of requests; unlimited if `None`.
    #[serde(default)]
    pub times: Option<u32>,
    /// Effect on the response.
    pub effect: Effect,
}

impl Fault {
    /// Returns a fault for all requests to `endpoint`.
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

    /// Limits the fault to one page.
    #[must_use]
    pub fn for_page(mut self, page: u32) -> Self {
        self.page = Some(page);
        self
    }

    /// Limits the fault to one organization.
    #[must_use]
    pub fn for_org(mut self, org: &str) -> Self {
        self.org = Some(org.to_owned());
        self
    }

    /// Limits the fault to the next `times` requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    fn applies(&self, endpoint: SimEndpoint, org: Option<&str>, page: Option<u32>) -> bool {
        self.endpoint == endpoint
            && (self.org.is_none() || self.org.as_deref() == org)
            && (self.page.is_none() || self.page == page)
            && self.times != Some(0)
    }
}

/// All faults, each with the Unix time at which it becomes active.
#[derive(Default)]
pub(crate) struct Faults(Vec<(f64, Fault)>);

fn unix_seconds(time: Timestamp) -> f64 {
    time.duration_since(Timestamp::UNIX_EPOCH).as_secs_f64()
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault, now: Timestamp) {
        self.0
            .push((unix_seconds(now) + fault.after_seconds, fault));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn list(&self) -> Vec<&Fault> {
        self.0.iter().map(|(_, fault)| fault).collect()
    }

    /// Returns the effects on a request, and counts it.
    pub(crate) fn effects_for(
        &mut self,
        endpoint: SimEndpoint,
        org: Option<&str>,
        page: Option<u32>,
        now: Timestamp,
    ) -> Vec<Effect> {
        let now = unix_seconds(now);
        self.0.retain(|(start, fault)| {
            fault.times != Some(0) && fault.for_seconds.is_none_or(|length| now < start + length)
        });
        let mut effects = Vec::new();
        for (start, fault) in &mut self.0 {
            if now >= *start && fault.applies(endpoint, org, page) {
                fault.times = fault.times.map(|times| times - 1);
                effects.push(fault.effect.clone());
            }
        }
        effects
    }
}
