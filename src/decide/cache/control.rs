//! The directives of `Cache-Control` that are read here.

use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

/// Names in lower case, each with its argument.
pub(super) struct Directives(Vec<(String, Option<String>)>);

impl Directives {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CACHE_CONTROL).iter();
        // One odd byte must not hide what else is said.
        let texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let each = |one: &str| {
            let (name, argument) = match one.split_once('=') {
                Some((name, argument)) => (name, Some(argument)),
                None => (one, None),
            };
            let argument = argument.map(|text| text.trim().trim_matches('"').to_owned());
            (name.trim().to_ascii_lowercase(), argument)
        };
        let each = texts.flat_map(|text| text.split(',').map(each).collect::<Vec<_>>());
        Self(each.collect())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(one, _)| one == name)
    }

    /// Its time; nothing when it is not there or is none.
    pub(super) fn seconds(&self, name: &str) -> Option<Duration> {
        let (_, argument) = self.0.iter().find(|(one, _)| one == name)?;
        argument.as_ref()?.parse().ok().map(Duration::from_secs)
    }

    /// The same; without an argument it means any time.
    pub(super) fn seconds_or_any(&self, name: &str) -> Duration {
        match self.0.iter().find(|(one, _)| one == name) {
            Some((_, None)) => Duration::MAX,
            _ => self.seconds(name).unwrap_or_default(),
        }
    }
}
