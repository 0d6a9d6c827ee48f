//! Idempotency keys: which ones are taken, and how they look on the wire.
//! The IETF draft (draft-ietf-httpapi-idempotency-key-header) makes the field a string of RFC 9651.

use http::HeaderValue;

use crate::error::{Error, Result};

/// The longest idempotency key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// How an idempotency key is written in its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyForm {
    /// As it is: `job_123`. What most servers expect.
    #[default]
    Bare,
    /// As a string of RFC 9651, section 3.3.3: `"job_123"`, with `"` and `\` escaped.
    Quoted,
}

/// Checks an idempotency key: 1 to 255 bytes of visible ASCII, spaces only inside.
///
/// HTTP cuts spaces around a bare value, so keys that differ only in those would be one key to the server.
///
/// # Errors
///
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), saying what is wrong without the key itself.
pub fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "an idempotency key has 1 to {KEY_BYTES_MAX} bytes, this one has {}",
            key.len()
        )));
    }
    if !key.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(Error::invalid(
            "an idempotency key holds visible ASCII characters and spaces only",
        ));
    }
    if key.starts_with(' ') || key.ends_with(' ') {
        return Err(Error::invalid(
            "an idempotency key must not start or end with a space: HTTP would cut it",
        ));
    }
    Ok(())
}

/// The value of the header that carries the key.
///
/// ```
/// # use syncvault::decide::{KeyForm, key_header_value};
/// assert_eq!(key_header_value("job_123", KeyForm::Bare).unwrap(), "job_123");
/// assert_eq!(key_header_value(r#"say "hi""#, KeyForm::Quoted).unwrap(), r#""say \"hi\"""#);
/// ```
///
/// # Errors
///
/// As [`check_key`].
pub fn key_header_value(key: &str, form: KeyForm) -> Result<HeaderValue> {
    check_key(key)?;
    let text = match form {
        KeyForm::Bare => key.to_owned(),
        KeyForm::Quoted => quoted(key),
    };
    HeaderValue::try_from(text)
        .map_err(|e| Error::invalid("an idempotency key does not fit a header").with_source(e))
}

/// The key in a header that a caller wrote itself, in either form.
///
/// # Errors
///
/// As [`check_key`]; a value that starts with a quote must end with one.
pub fn key_from_header(value: &HeaderValue) -> Result<String> {
    let not_text = |e| Error::invalid("an idempotency key holds visible ASCII").with_source(e);
    let text = value.to_str().map_err(not_text)?.trim();
    let key = match text.strip_prefix('"') {
        None => text.to_owned(),
        Some(rest) => unquoted(rest).ok_or_else(|| {
            Error::invalid("an idempotency key that starts with a quote must be a whole string")
        })?,
    };
    check_key(&key)?;
    Ok(key)
}

fn unquoted(rest: &str) -> Option<String> {
    let inner = rest.strip_suffix('"')?;
    let mut key = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return None,
            '\\' => key.push(characters.next().filter(|c| matches!(c, '"' | '\\'))?),
            plain => key.push(plain),
        }
    }
    Some(key)
}

fn quoted(key: &str) -> String {
    let mut text = String::with_capacity(key.len() + 2);
    text.push('"');
    for character in key.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    #[test]
    fn keys_are_visible_ascii_of_bounded_length() {
        let longest = "k".repeat(KEY_BYTES_MAX);
        for key in [
            "a",
            "!",
            "~",
            "job_123 complete",
            r#"with "quotes" and \"#,
            &longest,
        ] {
            check_key(key).expect(key);
        }
        let too_long = "k".repeat(KEY_BYTES_MAX + 1);
        for key in [
            "",
            " ",
            " a",
            "a ",
            "a\tb",
            "a\nb",
            "a\r",
            "\0",
            "\x7f",
            "schlüssel",
            &too_long,
        ] {
            let error = check_key(key).expect_err(key);
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn an_error_does_not_repeat_the_key() {
        let error = key_header_value("secret\n", KeyForm::Bare).expect_err("newline");
        assert!(!format!("{error:?}").contains("secret"));
    }

    #[test]
    fn a_key_in_a_header_is_read_in_either_form() {
        for key in ["job_123", r#"say "hi" \ there"#] {
            for form in [KeyForm::Bare, KeyForm::Quoted] {
                let value = key_header_value(key, form).expect("value");
                assert_eq!(key_from_header(&value).expect("key"), key);
            }
        }
        for bad in [r#""open"#, r#""a"b""#, r#""a\x""#, "", r#"""#] {
            let value = HeaderValue::from_str(bad).expect("value");
            assert!(key_from_header(&value).is_err(), "{bad}");
        }
    }

    /// Reads a string of RFC 9651, section 4.2.5, written from its steps and not from `quoted`.
    fn parse_string(text: &str) -> Option<String> {
        let mut rest = text.strip_prefix('"')?.chars();
        let mut out = String::new();
        loop {
            match rest.next()? {
                '\\' => match rest.next()? {
                    character @ ('"' | '\\') => out.push(character),
                    _ => return None,
                },
                '"' => return rest.as_str().is_empty().then_some(out),
                character @ ' '..='~' => out.push(character),
                _ => return None,
            }
        }
    }

    proptest! {
        #[test]
        fn a_quoted_key_reads_back(key in "[!-~]([ -~]{0,253}[!-~])?") {
            let bare = key_header_value(&key, KeyForm::Bare).expect("bare");
            prop_assert_eq!(bare.to_str().expect("ascii"), key.as_str());
            let value = key_header_value(&key, KeyForm::Quoted).expect("quoted");
            prop_assert_eq!(parse_string(value.to_str().expect("ascii")), Some(key));
        }

        #[test]
        fn no_text_makes_it_panic(key in "\\PC{0,300}") {
            let checked = check_key(&key).is_ok();
            prop_assert_eq!(checked, key_header_value(&key, KeyForm::Quoted).is_ok());
        }
    }
}
