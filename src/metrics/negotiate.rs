//! Content negotiation by `Accept` and `Accept-Encoding` and their q-values (RFC 9110 §12), as Prometheus 2.x and 3.x
//! send them.

/// A text format of the exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// `OpenMetrics` 1.0.
    OpenMetrics,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Text, Self::OpenMetrics];

    /// Returns the `Content-Type` of responses.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Returns the format that `accept` prefers; the text format if it accepts none or is empty.
    pub fn negotiate(accept: &str) -> Self {
        let mut best = (0.0, Self::Text);
        for (item, quality) in parse_qvalues(accept) {
            if let Some(format) = Self::from_media_type(&item)
                && quality > best.0
            {
                best = (quality, format);
            }
        }
        best.1
    }

    fn from_media_type(item: &WeightedItem<'_>) -> Option<Self> {
        let mut parameters = item.parameters.iter();
        let version = parameters.find(|(name, _)| name.eq_ignore_ascii_case("version"));
        let version = version.map(|(_, value)| *value);
        match item.name.to_ascii_lowercase().as_str() {
            // Version 0.0.1 is a draft that no client requests without 1.0.0.
            "application/openmetrics-text" if version.is_none_or(|it| it == "1.0.0") => {
                Some(Self::OpenMetrics)
            }
            "text/plain" if version.is_none_or(|it| it == "0.0.4") => Some(Self::Text),
            "text/*" | "*/*" => Some(Self::Text),
            _ => None,
        }
    }
}

/// Returns whether `accept_encoding` accepts gzip and does not prefer an uncompressed response.
pub fn accepts_gzip(accept_encoding: &str) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for (item, quality) in parse_qvalues(accept_encoding) {
        match item.name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(quality),
            "identity" => identity = Some(quality),
            "*" => any = Some(quality),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && identity.is_none_or(|identity| gzip >= identity)
}

struct WeightedItem<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

/// Returns the items of a list, each with its q-value; invalid items are skipped.
fn parse_qvalues(list: &str) -> impl Iterator<Item = (WeightedItem<'_>, f32)> {
    list.split(',').filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let mut quality = 1.0;
        let mut parameters = Vec::new();
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            if key.eq_ignore_ascii_case("q") {
                quality = value.parse().ok().filter(|q| (0.0..=1.0).contains(q))?;
            } else {
                parameters.push((key, value));
            }
        }
        Some((WeightedItem { name, parameters }, quality))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation_selects_the_format_prometheus_prefers() {
        for (accept, expected) in [
            // Prometheus 2.42
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            // Prometheus 2.42 with native histograms requests a format that is not supported
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            // Prometheus 3.x
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            // Prometheus 3.x with a preference for text
            (
                "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.2",
                Format::Text,
            ),
            ("", Format::Text),
            ("*/*", Format::Text),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                Format::Text,
            ),
            ("application/json", Format::Text),
            ("application/openmetrics-text; version=0.0.1", Format::Text),
            (
                "application/openmetrics-text; version=\"1.0.0\"",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0, text/plain",
                Format::Text,
            ),
            (
                "text/plain;q=0.5, application/openmetrics-text;q=0.9",
                Format::OpenMetrics,
            ),
            ("application/vnd.google.protobuf", Format::Text),
            (
                "application/openmetrics-text;version=1.0.0;q=7",
                Format::Text,
            ),
            (";;;,,=,q=", Format::Text),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept}");
        }
    }

    #[test]
    fn gzip_follows_accept_encoding() {
        for (accept, expected) in [
            ("gzip", true),
            ("gzip, deflate, br", true),
            ("deflate, gzip;q=0.5", true),
            ("*", true),
            ("gzip;q=0.8, identity;q=0.8", true),
            ("", false),
            ("identity", false),
            ("identity;q=1, gzip;q=0", false),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("gzip;q=0.2, identity;q=0.9", false),
            ("br", false),
        ] {
            assert_eq!(accepts_gzip(accept), expected, "{accept}");
        }
    }
}
