//! The shape of the source: which module may use which, and what every file keeps to.
//!
//! Two modules that use each other can only be read, tested and changed together. So the modules stand in one
//! line, and each uses only what stands left of it: whoever opens a file knows that nothing to its right can
//! change what it means. The compiler does not check this, and it slips one `use` at a time; so this test does.

mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use source::{ForTests, Source, reexports};

/// From left to right. A module may use itself and what stands left of it; not what stands beside it.
const ORDER: &[&[&str]] = &[
    &["error"],
    &["clock"],
    &["action"],
    &["decide"],
    &["store", "transport", "connectivity"],
    &["doctor"],
    &["event"],
    &["parts"],
    &["ticket"],
    &["payload"],
    &["attempt"],
    &["worker"],
    &["dispatch"],
    &["listing"],
    &["dead_letters"],
    &["request"],
    &["vault"],
    &["builder"],
    &["sync"],
    &["testing"],
];

/// Names that answer no question: such a module takes in whatever found no place.
const NAMES_REFUSED: &[&str] = &["utils", "util", "common", "helpers", "types", "misc"];

/// Outside `#[cfg(test)]`. Past it, split by noun.
const LINES_MAX: usize = 600;

#[test]
fn every_module_uses_only_what_stands_left_of_it() {
    let files = read_all(&["src"]);
    assert!(files.iter().any(|f| f.path == "src/lib.rs"), "no src found");
    report(&violations(&files));
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let files = read_all(&["src", "tests", "examples", "benches", "crates"]);
    let silent = files.iter().filter(|f| !f.text.starts_with("//!"));
    let found: Vec<_> = silent
        .map(|f| {
            format!(
                "{}: the first line is not a `//!` comment that says what it owns",
                f.path
            )
        })
        .collect();
    report(&found);
}

/// Goal: the checks above can fail. Method: small made-up crates, one breach each, and what must be said of it.
#[test]
fn a_breach_is_found_wherever_it_hides() {
    let lib =
        "//! l\nmod error;\npub use error::{Error, Result};\npub use worker::Worker as Loop;\n";
    let long = "fn f() {}\n".repeat(LINES_MAX + 1);
    let too_long = ("src/store/a.rs", long.as_str(), "split it by noun");
    for (path, text, want) in BREACHES.iter().copied().chain([too_long]) {
        let found = violations(&crate_of(lib, path, text));
        assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
        assert!(found[0].contains(want), "{path}: {text}: {found:?}");
    }
}

/// Where, what, and what must be said of it.
#[rustfmt::skip]
const BREACHES: &[(&str, &str, &str)] = &[
    ("src/action/a.rs", "use crate::store::Store;", "stands right of it"),
    ("src/action/a.rs", "use super::super::store::Store;", "stands right of it"),
    ("src/action/a.rs", "use crate::{error::Error, store::{self, X}};", "stands right of it"),
    ("src/action/a.rs", "fn f() { let _ = crate::worker::run(); }", "stands right of it"),
    ("src/action/a.rs", "use crate::Loop;", "stands right of it"),
    ("src/clock.rs", "use super::action::Record;", "stands right of it"),
    ("src/clock.rs", "mod inner { use super::super::action::Record; }", "stands right of it"),
    ("src/clock.rs", "use self::super::action::Record;", "stands right of it"),
    ("src/clock.rs", "#[cfg(any(test, unix))]\nuse crate::testing::X;", "stands right of it"),
    ("src/clock.rs", "#[cfg(test)]\nfn f() {}\nuse crate::action::Record;", "stands right of it"),
    ("src/store/a.rs", "use crate::transport::Transport;", "stands beside it"),
    ("src/worker.rs", "use crate::nowhere::X;", "neither a module nor re-exported"),
    ("src/worker.rs", "use crate::*;", "neither a module nor re-exported"),
    ("src/newcomer.rs", "", "give it a place in the order"),
    ("src/store/utils.rs", "", "answers no question"),
    ("src/store/kv/helpers/mod.rs", "", "answers no question"),
    ("src/store/a.rs", "mod common { }", "answers no question"),
];

#[test]
fn what_is_allowed_is_not_reported() {
    let lib = "//! l\npub use error::{Error, Result};\npub use worker::Worker as Loop;\npub use reqwest;\n";
    let body = "fn f() {}\n".repeat(LINES_MAX + 1);
    let long_tests = format!("#[cfg(test)]\nmod tests {{\n{body}}}\n");
    let long_tests = ("src/clock.rs", long_tests.as_str());
    for (path, text) in ALLOWED.iter().copied().chain([long_tests]) {
        let found = violations(&crate_of(lib, path, text));
        assert!(found.is_empty(), "{path}: {text}: {found:?}");
    }
    let mut files = crate_of(lib, "src/store/kv.rs", "#[cfg(test)]\nmod tests;\n");
    files.push(File::new("src/store/kv/tests.rs", "use crate::vault::X;"));
    assert!(violations(&files).is_empty());
}

/// Where and what.
#[rustfmt::skip]
const ALLOWED: &[(&str, &str)] = &[
    ("src/worker.rs", "use crate::action::Record; use crate::{Error, reqwest::Url, store as s};"),
    ("src/worker/turn.rs", "use super::Worker; use crate::worker::W; use super::super::action::Id;"),
    ("src/clock.rs", "/// [`X`](crate::vault::X)\n/* crate::vault::X /* */ crate::vault::X */ fn f() {}"),
    ("src/clock.rs", "const A: &str = \"crate::vault\"; const B: &str = r#\"\"crate::vault::X\"#; const C: char = '\"';"),
    ("src/clock.rs", "pub(crate) fn f<'a>(x: &'a str) {}\n#[cfg(test)]\nmod tests { use crate::vault::X; }\n"),
    ("src/clock.rs", "#[cfg(test)]\nuse crate::vault::X;\n#[cfg(all(test, unix))]\nfn f(x: [u8; 4]) { crate::vault::f() }"),
    ("src/clock.rs", "struct S { a: u8, #[cfg(test)] b: crate::vault::X }\nmod inner { use super::super::error::E; }"),
];

struct File {
    path: String,
    text: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }

    /// `["store", "kv"]` for `src/store/kv.rs` and for `src/store/kv/mod.rs`; empty for `lib.rs`.
    fn module(&self) -> Vec<String> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let names = inner.split('/').map(str::to_owned);
        names.filter(|n| n != "mod" && n != "lib").collect()
    }
}

/// A crate of every module of the order, empty but for the one file.
fn crate_of(lib: &str, path: &str, text: &str) -> Vec<File> {
    let mut files: Vec<_> = ORDER
        .iter()
        .flat_map(|place| place.iter())
        .map(|name| File::new(&format!("src/{name}/mod.rs"), ""))
        .collect();
    files.push(File::new("src/lib.rs", lib));
    files.push(File::new(path, text));
    files
}

/// Everything that breaks the rules, one line each.
fn violations(files: &[File]) -> Vec<String> {
    let lib = files.iter().find(|f| f.path == "src/lib.rs");
    let reexports = lib.map_or_else(Vec::new, |f| reexports(&f.text));
    let read: Vec<_> = files
        .iter()
        .map(|f| (f, f.module(), Source::read(&f.module(), &f.text)))
        .collect();
    let mods: Vec<_> = read
        .iter()
        .flat_map(|(_, _, source)| &source.mods)
        .collect();
    let tops: BTreeSet<&str> = read
        .iter()
        .filter_map(|(_, module, _)| module.first().map(String::as_str))
        .collect();

    let mut found: Vec<_> = tops
        .iter()
        .filter(|top| place(top).is_none())
        .map(|top| format!("src/{top}: an unknown module; give it a place in the order"))
        .collect();
    let names = read.iter().filter_map(|(_, module, _)| module.last());
    let names: BTreeSet<_> = names
        .chain(mods.iter().filter_map(|(path, _)| path.last()))
        .collect();
    for name in names
        .into_iter()
        .filter(|n| NAMES_REFUSED.contains(&n.as_str()))
    {
        found.push(format!(
            "a module named `{name}` answers no question; name it for what it holds"
        ));
    }
    for (file, module, source) in &read {
        let is_for_tests = mods
            .iter()
            .any(|(path, for_tests)| *for_tests == ForTests::Yes && module.starts_with(path));
        if is_for_tests {
            continue;
        }
        if source.lines > LINES_MAX {
            let lines = source.lines;
            found.push(format!(
                "{}: {lines} lines outside tests, over {LINES_MAX}; split it by noun",
                file.path
            ));
        }
        let Some(own) = module.first() else { continue };
        for root_name in &source.root_names {
            let at = format!("{}:{}", file.path, root_name.line);
            found.extend(
                judge(own, &root_name.name, &tops, &reexports).map(|why| format!("{at}: {why}")),
            );
        }
    }
    found
}

/// Why `own` may not use `name` of the crate root; nothing when it may.
fn judge(
    own: &str,
    name: &str,
    tops: &BTreeSet<&str>,
    reexports: &[(String, String)],
) -> Option<String> {
    // Exported macros live at the root, whatever file they stand in; these are the store contract's own.
    if name.starts_with("__store_contract") || name.starts_with("__local_contract") {
        return None;
    }
    let target = if tops.contains(name) {
        name
    } else if let Some((_, from)) = reexports.iter().find(|(public, _)| public == name) {
        from
    } else {
        return Some(format!(
            "`crate::{name}` is neither a module nor re-exported by name in lib.rs"
        ));
    };
    let (own_place, target_place) = (place(own)?, place(target)?);
    if own == target || target_place < own_place {
        return None;
    }
    let where_it_stands = if target_place == own_place {
        "beside"
    } else {
        "right of"
    };
    Some(format!(
        "`{own}` uses `{target}`, which stands {where_it_stands} it; move what both need to the left"
    ))
}

fn place(module: &str) -> Option<usize> {
    ORDER.iter().position(|names| names.contains(&module))
}

fn report(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// Every `.rs` file below these folders of the package, those that exist.
fn read_all(folders: &[&str]) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("an entry of a source folder").path();
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("a readable source file");
                let inner = path.strip_prefix(root).expect("below the root");
                files.push(File::new(
                    &inner.display().to_string().replace('\\', "/"),
                    &text,
                ));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}
