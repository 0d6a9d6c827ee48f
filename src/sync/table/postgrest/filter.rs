//! Queries in the grammar of PostgREST, with every name and value in its place whatever it holds. Values only.

use super::super::wire::encoded;

/// A query, as it stands behind the `?`.
#[derive(Debug, Default)]
pub(super) struct Query(String);

impl Query {
    /// A parameter.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        let mark = if self.0.is_empty() { '?' } else { '&' };
        self.0.push(mark);
        self.0.push_str(&encoded(name));
        self.0.push('=');
        self.0.push_str(&encoded(value));
        self
    }

    /// A filter on a column. What stands behind the first dot is the value, to the end and as it is: nothing is quoted there.
    #[must_use]
    pub(super) fn filter(self, column: &str, operator: &str, value: &str) -> Self {
        self.with(&name(column), &format!("{operator}.{value}"))
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// A column, in quotes where it holds what the grammar reads.
pub(super) fn name(column: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || c == '_';
    match !column.is_empty() && column.chars().all(is_plain) {
        true => column.to_owned(),
        false => quoted(column),
    }
}

/// A value inside of `or(..)` and `and(..)`: in quotes, where a backslash takes the next character as it is.
pub(super) fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_stay_in_their_place() {
        let query = Query::default()
            .filter("id", "eq", "a&b=c,(d).\"e\"")
            .filter("or", "eq", "x")
            .filter("a.b", "is", "null");
        assert_eq!(
            query.text(),
            "?id=eq.a%26b%3Dc%2C%28d%29.%22e%22&or=eq.x&%22a.b%22=is.null"
        );
        assert_eq!(quoted("a\"b\\c,)"), "\"a\\\"b\\\\c,)\"");
    }
}
