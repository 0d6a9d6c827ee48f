//! Where a pull goes on: behind a time and an id, and how far back the next one starts, because a transaction that began earlier
//! may be committed later. Values only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::instant::Instant;
use crate::sync::{Cursor, ItemId};

/// A place in the order `(updated_at, id)`.
///
/// A row is stamped when its transaction begins and is seen when it is committed. What is older than the overlap, by the server's
/// clock, is settled: no row will come there any more. `floor` is where the part begins that was not settled when it was listed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Rows at this time, or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<String>,
    /// Of those at this very time, the ones behind this id only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    floor: Option<String>,
}

impl Place {
    /// From a cursor that this dialect made; nothing for another text.
    pub(super) fn of(cursor: Option<&Cursor>) -> Option<Self> {
        let Some(cursor) = cursor else {
            return Some(Self::default());
        };
        let place: Self = serde_json::from_str(cursor.as_str()).ok()?;
        let is_sound = |text: &String| Instant::parse(text).is_some();
        let is_place = place.at.as_ref().is_some_and(is_sound);
        let has_floor = place.floor.as_ref().is_none_or(is_sound);
        (is_place && has_floor).then_some(place)
    }

    /// Behind the last row of a page, which the server read at `now`.
    pub(super) fn behind(&self, (at, id): (String, ItemId), settled: Option<Instant>) -> Self {
        let is_settled = |settled: &Instant| Instant::parse(&at).is_some_and(|at| at <= *settled);
        let floor = self.floor.clone();
        Self {
            floor: floor.or_else(|| settled.filter(|s| !is_settled(s)).map(|s| s.to_string())),
            at: Some(at),
            id: Some(id.to_string()),
        }
    }

    /// Where the next pull starts, when there is nothing behind this place. Nothing = at the beginning.
    pub(super) fn resume(self, settled: Option<Instant>, overlap: Duration) -> Option<Self> {
        let from = |at: String| Self {
            at: Some(at),
            ..Self::default()
        };
        match (self.floor, self.at, settled) {
            (Some(floor), _, _) => Some(from(floor)),
            (None, Some(at), Some(_)) => Some(Self {
                at: Some(at),
                id: self.id,
                floor: None,
            }),
            // The server tells no time of its own: then by its newest row.
            (None, Some(at), None) => Some(from(Instant::parse(&at)?.before(overlap).to_string())),
            (None, None, settled) => Some(from(settled?.to_string())),
        }
    }

    pub(super) fn cursor(&self) -> Cursor {
        // Texts only: it can be written.
        Cursor::new(serde_json::to_string(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAP: Duration = Duration::from_secs(60);

    fn at(second: u32) -> String {
        format!(
            "2026-01-01T00:{:02}:{:02}.000000+00:00",
            second / 60,
            second % 60
        )
    }

    fn settled(now: u32) -> Option<Instant> {
        Instant::parse(&at(now)).map(|now| now.before(OVERLAP))
    }

    fn behind(place: &Place, second: u32, now: u32) -> Place {
        place.behind((at(second), ItemId::new("x")), settled(now))
    }

    #[test]
    fn what_is_settled_is_not_listed_again() {
        let place = behind(&Place::default(), 100, 1000);
        let resume = place.clone().resume(settled(1000), OVERLAP);
        assert_eq!(resume, Some(place));
    }

    #[test]
    fn what_was_not_settled_when_it_was_listed_is_listed_again() {
        // The first page reaches into the last minute; hours later the last page is read.
        let place = behind(&Place::default(), 100, 120);
        let place = behind(&place, 150, 3000);
        let resume = place.resume(settled(3000), OVERLAP).expect("a place");
        assert_eq!((resume.at, resume.id), (Some(at(60)), None));
    }

    #[test]
    fn a_server_without_a_clock_is_asked_again_for_its_last_minute() {
        let place = Place::default().behind((at(100), ItemId::new("x")), None);
        let resume = place.resume(None, OVERLAP).expect("a place");
        assert_eq!((resume.at, resume.id), (Some(at(40)), None));
    }

    #[test]
    fn an_empty_table_is_asked_for_what_comes() {
        let resume = Place::default()
            .resume(settled(100), OVERLAP)
            .expect("a place");
        assert_eq!(resume.at, Some(at(40)));
        assert_eq!(Place::default().resume(None, OVERLAP), None);
    }

    #[test]
    fn a_cursor_reads_back_and_another_text_is_none() {
        let place = behind(&Place::default(), 100, 120);
        assert_eq!(Place::of(Some(&place.cursor())), Some(place));
        assert_eq!(Place::of(None), Some(Place::default()));
        for text in [
            "",
            "{}",
            "c.1.2",
            "{\"at\":\"yesterday\"}",
            "{\"at\":\"2026-01-01T00:00:00Z\",\"floor\":\"x\"}",
        ] {
            assert_eq!(Place::of(Some(&Cursor::new(text))), None, "{text}");
        }
    }
}
