//! Programmatic API keys: HTTP Digest. A challenge is paid for once, and its nonce is then used
//! with a rising count for as long as the server takes it.

use http_auth::{PasswordClient, PasswordParams};
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use secrecy::ExposeSecret as _;
use tokio::sync::{Mutex, MutexGuard};

use super::sensitive;
use crate::atlas::error::Problem;
use crate::credentials::Source;

/// A programmatic API key, and the challenge that it answers at present.
///
/// Requests take turns: a server may refuse a count that is lower than one it has seen, and
/// nothing keeps requests that are under way at once in order.
pub(in crate::atlas) struct ApiKey {
    public: Source,
    private: Source,
    challenge: Mutex<Option<PasswordClient>>,
}

/// One request's turn.
pub(in crate::atlas) struct Turn<'a> {
    challenge: MutexGuard<'a, Option<PasswordClient>>,
    header: Option<HeaderValue>,
}

impl ApiKey {
    pub(super) fn new(public: Source, private: Source) -> Self {
        Self {
            public,
            private,
            challenge: Mutex::new(None),
        }
    }

    pub(super) async fn turn(&self, method: &Method, url: &Url) -> Result<Turn<'_>, Problem> {
        let mut challenge = self.challenge.lock().await;
        let header = match challenge.as_mut() {
            None => None,
            Some(client) => {
                let (public, private) = (self.public.read()?, self.private.read()?);
                let uri = match url.query() {
                    Some(query) => format!("{}?{query}", url.path()),
                    None => url.path().to_owned(),
                };
                let answer = client
                    .respond(&PasswordParams {
                        username: public.expose_secret(),
                        password: private.expose_secret(),
                        uri: &uri,
                        method: method.as_str(),
                        body: Some(&[]),
                    })
                    .map_err(|why| {
                        Problem::Invalid(format!("its Digest challenge cannot be answered: {why}"))
                    })?;
                Some(sensitive(&answer)?)
            }
        };
        Ok(Turn { challenge, header })
    }
}

impl Turn<'_> {
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header.clone()
    }

    /// Told of a 401: takes the new challenge, and says whether answering it can help.
    pub(super) fn refused(mut self, headers: &HeaderMap) -> bool {
        let first_use = match self.challenge.as_ref() {
            Some(PasswordClient::Digest(client)) => client.nonce_count() <= 1,
            _ => false,
        };
        let challenges = headers
            .get_all(WWW_AUTHENTICATE)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        let new = challenges
            .fold(
                PasswordClient::builder(),
                http_auth::PasswordClientBuilder::challenges,
            )
            .build()
            .ok();
        let stale = matches!(&new, Some(PasswordClient::Digest(client)) if client.stale());
        let answerable = new.is_some();
        let answered = self.header.is_some();
        *self.challenge = new;
        // a fresh nonce that was refused and is not stale means that the key itself is wrong
        answerable && (!answered || stale || !first_use)
    }
}
