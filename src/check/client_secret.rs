//! Expiry of the client secret of a service account.

use std::time::Duration;

use jiff::Timestamp;
use mongodb_atlas_client::ClientSecret;

use super::findings::{Finding, Topic};
use crate::humanize::{elapsed, format_duration};

const DAY: Duration = Duration::from_hours(24);
/// Remaining lifetime below which a secret is an error.
const ERROR_BELOW: Duration = Duration::from_hours(7 * 24);
/// Remaining lifetime below which a secret is a warning.
const WARNING_BELOW: Duration = Duration::from_hours(30 * 24);

/// Reports the expiry of the secret in use. `secrets` is `None` if the credential cannot list the secrets.
pub(super) fn expiry_finding(
    topic: &Topic,
    secrets: Option<&[ClientSecret]>,
    now: Timestamp,
) -> Finding {
    let Some(secret) = secrets.and_then(|secrets| secret_in_use(secrets, now)) else {
        return topic.ok(
            "expiry is not visible with this credential (only in the organization of the service account, with the role \
             Organization Read Only)",
        );
    };
    let (id, expires_at) = (&secret.id, secret.expires_at);
    let date = expires_at.strftime("%Y-%m-%d");
    let hint = "create a new client secret for the service account in Atlas and replace the old one; both can be valid \
                until then";
    if expires_at <= now {
        let ago = whole_days(elapsed(expires_at, now));
        return topic.error(
            format!("client secret {id} expired {ago} ago ({date})"),
            hint,
        );
    }
    let left = elapsed(now, expires_at);
    let message = format!(
        "client secret {id} expires in {} ({date})",
        whole_days(left)
    );
    if left < ERROR_BELOW {
        topic.error(message, hint)
    } else if left < WARNING_BELOW {
        topic.warning(message, hint)
    } else {
        topic.ok(message)
    }
}

/// Returns the secret with the latest use within the last day, or otherwise the secret with the latest expiry. During a
/// rotation there are two secrets.
fn secret_in_use(secrets: &[ClientSecret], now: Timestamp) -> Option<&ClientSecret> {
    let used_at = |secret: &&ClientSecret| {
        let used_at = secret.last_used_at;
        used_at.filter(|used_at| elapsed(*used_at, now) < DAY)
    };
    secrets
        .iter()
        .max_by_key(|secret| (used_at(secret), secret.expires_at))
}

/// Formats a duration in whole days; a duration of less than one day in hours, minutes and seconds.
fn whole_days(duration: Duration) -> String {
    let days = duration.as_secs() / DAY.as_secs();
    format_duration(if days > 0 {
        Duration::from_hours(24 * days)
    } else {
        duration
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::findings::{Component, Severity};

    const HOUR: i64 = 3600;

    fn at(hours: i64) -> Timestamp {
        let start: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        Timestamp::from_second(start.as_second() + hours * HOUR).expect("a time")
    }

    /// Returns a secret; expiry and last use are in hours from now.
    fn secret(id: &str, expires_in: i64, used: Option<i64>) -> ClientSecret {
        ClientSecret {
            id: id.to_owned(),
            expires_at: at(expires_in),
            last_used_at: used.map(at),
        }
    }

    fn finding(secrets: Option<&[ClientSecret]>) -> Finding {
        let topic = Topic::new(Component::ClientSecret, "default");
        expiry_finding(&topic, secrets, at(0))
    }

    #[test]
    fn client_secret_that_expires_soon_is_a_warning_then_an_error() {
        for (hours, severity, text) in [
            (
                -25,
                Severity::Error,
                "client secret a expired 1 day ago (2026-02-28)",
            ),
            (
                0,
                Severity::Error,
                "client secret a expired 0 seconds ago (2026-03-01)",
            ),
            (
                5,
                Severity::Error,
                "client secret a expires in 5 hours (2026-03-01)",
            ),
            (
                7 * 24 - 1,
                Severity::Error,
                "client secret a expires in 6 days (2026-03-08)",
            ),
            (
                7 * 24,
                Severity::Warning,
                "client secret a expires in 7 days (2026-03-08)",
            ),
            (
                30 * 24 - 1,
                Severity::Warning,
                "client secret a expires in 29 days (2026-03-31)",
            ),
            (
                30 * 24,
                Severity::Ok,
                "client secret a expires in 30 days (2026-03-31)",
            ),
            (
                89 * 24 + 3,
                Severity::Ok,
                "client secret a expires in 89 days (2026-05-29)",
            ),
        ] {
            let finding = finding(Some(&[secret("a", hours, None)]));
            assert_eq!((finding.severity, &*finding.message), (severity, text));
            assert_eq!(finding.hint.is_some(), severity != Severity::Ok, "{text}");
        }
    }

    #[test]
    fn expiry_finding_uses_the_client_secret_in_use() {
        let (short, long) = (24 * 2, 24 * 300);
        for (secrets, expected) in [
            (
                [secret("a", short, Some(-1)), secret("b", long, Some(-23))],
                "a",
            ),
            (
                [secret("a", short, Some(-2)), secret("b", long, Some(-1))],
                "b",
            ),
            (
                [secret("a", short, Some(-24)), secret("b", long, None)],
                "b",
            ),
            ([secret("a", short, Some(-1)), secret("b", long, None)], "a"),
            (
                [secret("a", short, None), secret("b", long, Some(-25))],
                "b",
            ),
            (
                [secret("a", long, Some(-30)), secret("b", short, Some(-25))],
                "a",
            ),
            // The local clock is behind.
            (
                [secret("a", short, Some(1)), secret("b", long, Some(-1))],
                "a",
            ),
            // Both were last used at the same time.
            (
                [secret("a", short, Some(-1)), secret("b", long, Some(-1))],
                "b",
            ),
        ] {
            let found = secret_in_use(&secrets, at(0)).expect("one of them");
            assert_eq!(found.id, expected, "{secrets:?}");
        }
    }

    #[test]
    fn invisible_client_secret_is_ok() {
        for secrets in [None, Some([].as_slice())] {
            let finding = finding(secrets);
            assert_eq!(finding.severity, Severity::Ok);
            assert!(finding.message.contains("not visible"), "{finding:?}");
            assert!(
                finding.message.contains("Organization Read Only"),
                "{finding:?}"
            );
        }
    }
}
