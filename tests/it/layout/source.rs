//! Reads Rust source as far as `layout` needs it: words and marks without comments and literals, which lines
//! are test code, and which names are taken from the crate root. It is no parser: `use` trees and paths only.

/// A word, `::`, or one mark.
pub(super) struct Token {
    pub text: String,
    pub line: usize,
}

/// A name that is taken from the crate root: `crate::NAME`, or as many `super::` as lead there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RootName {
    pub name: String,
    pub line: usize,
}

/// One file, read.
pub(super) struct Source {
    /// Every name it takes from the crate root, outside `#[cfg(test)]`.
    pub root_names: Vec<RootName>,
    /// Every `mod name` it declares, with the names of the modules around it, and whether it is for tests only.
    pub mods: Vec<(Vec<String>, ForTests)>,
    /// Its lines outside `#[cfg(test)]`.
    pub lines: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForTests {
    Yes,
    No,
}

impl Source {
    /// Reads a file whose own place is `module` (`["store", "kv"]` for `src/store/kv.rs`).
    pub(super) fn read(module: &[String], text: &str) -> Self {
        let mut reader = Reader {
            tokens: tokens(text),
            at: 0,
            scope: module.to_vec(),
            closes: Vec::new(),
            depth: 0,
            test_lines: 0,
            root_names: Vec::new(),
            mods: Vec::new(),
        };
        reader.run();
        Self {
            root_names: reader.root_names,
            mods: reader.mods,
            lines: text.lines().count() - reader.test_lines,
        }
    }
}

/// What `lib.rs` re-exports: the public name, and the first segment of where it comes from.
pub(super) fn reexports(lib: &str) -> Vec<(String, String)> {
    let tokens = tokens(lib);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            at += 1;
            leaves(&tokens, &mut at, None, &mut found);
        }
        at += 1;
    }
    found
}

/// Walks one `use` tree from `at`; leaves `at` on the mark that ends it.
fn leaves(
    tokens: &[Token],
    at: &mut usize,
    first: Option<&str>,
    found: &mut Vec<(String, String)>,
) {
    let mut first = first.map(str::to_owned);
    let mut last = String::new();
    while let Some(token) = tokens.get(*at) {
        match token.text.as_str() {
            "::" | "crate" | "self" | "as" => {}
            "{" => {
                while tokens.get(*at).is_some_and(|t| t.text != "}") {
                    *at += 1;
                    leaves(tokens, at, first.as_deref(), found);
                }
                *at += 1;
                return;
            }
            ";" | "," | "}" => break,
            word => {
                first.get_or_insert_with(|| word.to_owned());
                word.clone_into(&mut last);
            }
        }
        *at += 1;
    }
    if let (Some(first), false) = (first, last.is_empty()) {
        found.push((last, first));
    }
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    scope: Vec<String>,
    /// The brace depth at which each inline module of `scope` ends.
    closes: Vec<usize>,
    depth: usize,
    test_lines: usize,
    root_names: Vec<RootName>,
    mods: Vec<(Vec<String>, ForTests)>,
}

impl Reader {
    fn run(&mut self) {
        while self.at < self.tokens.len() {
            match self.text(0) {
                "#" if self.is_test_attribute() => self.skip_test_item(),
                "mod" if self.is_word(1) => self.enter_mod(),
                "{" => self.depth += 1,
                "}" => self.leave_brace(),
                "crate" | "super" if self.starts_path() => self.read_path(),
                _ => {}
            }
            self.at += 1;
        }
    }

    fn text(&self, ahead: usize) -> &str {
        self.tokens
            .get(self.at + ahead)
            .map_or("", |t| t.text.as_str())
    }

    fn is_word(&self, ahead: usize) -> bool {
        self.text(ahead).starts_with(|c: char| c.is_alphabetic())
    }

    /// `#[cfg(test)]` and `#[cfg(all(test, ..))]`. Not `any(test, ..)`: that is built for users too.
    fn is_test_attribute(&self) -> bool {
        let is = |marks: &[&str]| (0..).zip(marks).all(|(n, mark)| self.text(n) == *mark);
        is(&["#", "[", "cfg", "(", "test", ")", "]"])
            || is(&["#", "[", "cfg", "(", "all", "(", "test"])
    }

    /// Passes the item that starts here: to its `;`, or to the brace that closes it.
    fn skip_test_item(&mut self) {
        let first_line = self.tokens[self.at].line;
        let mut depth = 0usize;
        while self.at < self.tokens.len() {
            match self.text(0) {
                "mod" if depth == 0 && self.is_word(1) => {
                    let name = self.text(1).to_owned();
                    self.declare(name, ForTests::Yes);
                }
                "(" | "[" | "{" => depth += 1,
                ")" | "]" => depth = depth.saturating_sub(1),
                "}" if depth == 0 => {
                    self.at -= 1; // the brace around the item, not its own
                    break;
                }
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                ";" if depth == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        let last = self.at.min(self.tokens.len() - 1);
        self.test_lines += self.tokens[last].line - first_line + 1;
    }

    fn declare(&mut self, name: String, for_tests: ForTests) {
        let mut path = self.scope.clone();
        path.push(name);
        self.mods.push((path, for_tests));
    }

    fn enter_mod(&mut self) {
        let name = self.text(1).to_owned();
        self.declare(name.clone(), ForTests::No);
        if self.text(2) == "{" {
            self.scope.push(name);
            self.closes.push(self.depth);
            self.depth += 1;
            self.at += 2;
        }
    }

    fn leave_brace(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.closes.last() == Some(&self.depth) {
            self.closes.pop();
            self.scope.pop();
        }
    }

    /// True at the first segment of a path; `self::super::x` starts at its `super`.
    fn starts_path(&self) -> bool {
        let before = |n: usize| {
            self.at
                .checked_sub(n)
                .map_or("", |i| self.tokens[i].text.as_str())
        };
        self.text(1) == "::" && (before(1) != "::" || before(2) == "self")
    }

    fn read_path(&mut self) {
        let mut base = if self.text(0) == "crate" {
            0
        } else {
            self.scope.len().saturating_sub(1)
        };
        self.at += 2;
        while self.text(0) == "super" && self.text(1) == "::" {
            base = base.saturating_sub(1);
            self.at += 2;
        }
        if base == 0 {
            self.read_heads();
        }
        // The word or brace after the path is looked at again by `run`: braces must stay balanced.
        self.at -= 1;
    }

    /// The first segments of what follows: one word, or those of a `{..}` group.
    fn read_heads(&mut self) {
        if self.text(0) != "{" {
            self.take_head(0);
            return;
        }
        let (mut ahead, mut depth) = (1, 1);
        let mut is_first = true;
        while depth > 0 && self.at + ahead < self.tokens.len() {
            match self.text(ahead) {
                "{" => depth += 1,
                "}" => depth -= 1,
                "," if depth == 1 => is_first = true,
                _ if is_first => {
                    self.take_head(ahead);
                    is_first = false;
                }
                _ => {}
            }
            ahead += 1;
        }
    }

    fn take_head(&mut self, ahead: usize) {
        let name = self.text(ahead).to_owned();
        if name != "self" {
            let line = self.tokens[self.at + ahead].line;
            self.root_names.push(RootName { name, line });
        }
    }
}

/// Cuts source into tokens; comments, strings and characters fall out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let c = chars[at];
        let start = at;
        if let Some(end) = end_of_silent(&chars, at) {
            at = end;
        } else if is_word_char(c) {
            while chars.get(at).copied().is_some_and(is_word_char) {
                at += 1;
            }
            let text = chars[start..at].iter().collect();
            out.push(Token { text, line });
        } else {
            at += if c == ':' && chars.get(at + 1) == Some(&':') {
                2
            } else {
                1
            };
            if !c.is_whitespace() {
                let text = chars[start..at].iter().collect();
                out.push(Token { text, line });
            }
        }
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    out
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the comment, string, character or lifetime that starts at `at` ends.
fn end_of_silent(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    let is = |text: &str| rest.iter().copied().take(text.len()).eq(text.chars());
    if is("//") {
        let length = rest.iter().position(|c| *c == '\n');
        return Some(at + length.unwrap_or(rest.len()));
    }
    if is("/*") {
        return Some(at + block_comment(rest));
    }
    if is("'") {
        return Some(at + character_or_lifetime(rest));
    }
    let prefix = ["b", "c", "r", "br", "cr", ""].into_iter().find_map(|p| {
        let hashes = rest.iter().skip(p.len()).take_while(|c| **c == '#').count();
        let is_raw = p.ends_with('r');
        let opens = is(p) && rest.get(p.len() + hashes) == Some(&'"') && (is_raw || hashes == 0);
        opens.then_some((p.len() + hashes + 1, is_raw.then_some(hashes)))
    });
    let (opening, raw) = prefix?;
    Some(at + opening + string_rest(&rest[opening..], raw))
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn character_or_lifetime(rest: &[char]) -> usize {
    let escaped = rest.get(1) == Some(&'\\');
    if escaped || rest.get(2) == Some(&'\'') {
        let from = if escaped { 3 } else { 2 };
        let close = rest.iter().skip(from).position(|c| *c == '\'');
        return close.map_or(rest.len(), |n| from + n + 1);
    }
    let name = rest.iter().skip(1).take_while(|c| is_word_char(**c));
    1 + name.count()
}

/// The length of a string after its opening quote; `raw` = how many `#` close it, nothing = it has escapes.
fn string_rest(rest: &[char], raw: Option<usize>) -> usize {
    let mut at = 0;
    while at < rest.len() {
        let closes = rest[at] == '"'
            && rest
                .iter()
                .skip(at + 1)
                .take(raw.unwrap_or(0))
                .filter(|c| **c == '#')
                .count()
                == raw.unwrap_or(0);
        if closes {
            return at + 1 + raw.unwrap_or(0);
        }
        at += if raw.is_none() && rest[at] == '\\' {
            2
        } else {
            1
        };
    }
    rest.len()
}
