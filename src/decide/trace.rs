//! W3C trace context (<https://www.w3.org/TR/trace-context/>): a request keeps its trace over the queue, and each attempt is a
//! span of its own in it.

/// The header that names the trace.
pub const TRACEPARENT: &str = "traceparent";

/// The flags that are defined: sampled, and a random trace id. Others go out as zero.
const FLAGS_KNOWN: u8 = 0b11;

/// The trace of a request: all of a `traceparent` header but the span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    flags: u8,
}

impl TraceParent {
    /// Reads the value of a `traceparent` header; nothing when it is not valid. A version that is newer than ours (00) is read as
    /// far as ours goes.
    ///
    /// ```
    /// # use syncvault::decide::TraceParent;
    /// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let trace = TraceParent::parse(text).expect("valid");
    /// let attempt = trace.with_span(0xb7ad_6b71_6920_3331);
    /// assert_eq!(attempt, "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01");
    /// ```
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(5, '-');
        let version = hex(fields.next()?, 2)?;
        let trace_id = hex(fields.next()?, 32).filter(|id| *id != 0)?;
        hex(fields.next()?, 16).filter(|span| *span != 0)?;
        let flags = hex(fields.next()?, 2)?;
        let has_more = fields.next().is_some();
        if version == 0xff || (version == 0 && has_more) {
            return None;
        }
        let flags = u8::try_from(flags).ok()? & FLAGS_KNOWN;
        Some(Self { trace_id, flags })
    }

    /// The header of an attempt: the same trace, with a span of its own. A span of zero is not valid and becomes one.
    #[must_use]
    pub fn with_span(&self, span: u64) -> String {
        let (trace_id, flags) = (self.trace_id, self.flags);
        format!("00-{trace_id:032x}-{:016x}-{flags:02x}", span.max(1))
    }
}

/// Exactly so many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_whole = text.len() == digits && text.bytes().all(is_hex);
    u128::from_str_radix(text, 16).ok().filter(|_| is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn what_the_recommendation_forbids_is_refused() {
        let refused = [
            String::new(),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("0-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-1"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", &TRACE[1..]),
            format!("00-{TRACE}-00f067aa0ba902b-01"),
            format!("00-{TRACE}-00f067aa0ba902bg-01"),
            format!("00-{TRACE}-+0f067aa0ba902b7-01"),
            format!(" 00-{TRACE}-00f067aa0ba902b7-01"),
        ];
        for text in refused {
            assert_eq!(TraceParent::parse(&text), None, "{text:?}");
        }
    }

    #[test]
    fn a_newer_version_is_read_as_far_as_ours_goes() {
        for rest in ["", "-what-comes-then"] {
            let text = format!("cc-{TRACE}-00f067aa0ba902b7-ff{rest}");
            let trace = TraceParent::parse(&text).expect("valid");
            assert_eq!(
                trace.with_span(1),
                format!("00-{TRACE}-0000000000000001-03")
            );
        }
    }

    #[test]
    fn each_span_is_valid() {
        let text = format!("00-{TRACE}-00f067aa0ba902b7-00");
        let trace = TraceParent::parse(&text).expect("valid");
        for span in [0, 1, u64::MAX] {
            assert_eq!(TraceParent::parse(&trace.with_span(span)), Some(trace));
        }
    }
}
