//! The planted bugs: texts that put a bug into a copy of the source, so that the suites can show that they find it.
//! Nothing of them is in the crate. Here: each still finds its place; and the copy is made, for `tests/planted/run`.

use std::fs;
use std::path::Path;

/// A bug, and where it goes.
struct Plant {
    name: String,
    edits: Vec<Edit>,
}

/// What stands in a file, and what is put in its place.
struct Edit {
    file: String,
    shipped: String,
    planted: String,
}

/// What the planted texts ask: is it my turn? Put at the end of `src/lib.rs` of the copy.
const SWITCH: &str = r#"
/// The bug that is planted in this run.
pub(crate) fn planted(name: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let planted = NAME.get_or_init(|| std::env::var("SYNCVAULT_PLANTED").ok());
    planted.as_deref() == Some(name)
}
"#;

#[test]
fn every_plant_finds_its_place_once() {
    let plants = plants();
    assert!(plants.len() >= 20, "{} plants", plants.len());
    for plant in plants {
        assert!(!plant.edits.is_empty(), "{} changes nothing", plant.name);
        for edit in &plant.edits {
            let text = fs::read_to_string(root().join(&edit.file)).expect("a file of the source");
            let found = text.matches(&edit.shipped).count();
            let (name, file) = (&plant.name, &edit.file);
            assert_eq!(found, 1, "{name}: bring its text in line with {file}");
            let switch = format!("crate::planted(\"{name}\")");
            assert!(
                edit.planted.contains(&switch),
                "{name} has another's switch"
            );
        }
    }
}

/// Puts every plant into the copy of the crate at `SYNCVAULT_PLANT_INTO`, each behind its name.
#[test]
#[ignore = "changes a copy of the source: tests/planted/run calls it"]
fn plant_all() {
    let copy = std::env::var("SYNCVAULT_PLANT_INTO").expect("the directory of the copy");
    let copy = Path::new(&copy);
    assert_ne!(copy, root(), "never into the source itself");
    for plant in plants() {
        for edit in plant.edits {
            let path = copy.join(&edit.file);
            let text = fs::read_to_string(&path).expect("a file of the copy");
            assert!(
                text.contains(&edit.shipped),
                "{}: {}",
                plant.name,
                edit.file
            );
            fs::write(&path, text.replace(&edit.shipped, &edit.planted)).expect("written");
        }
    }
    let lib = copy.join("src/lib.rs");
    let text = fs::read_to_string(&lib).expect("lib.rs");
    fs::write(&lib, text + SWITCH).expect("written");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn plants() -> Vec<Plant> {
    let files = fs::read_dir(root().join("tests/planted")).expect("the plants");
    let mut plants = Vec::new();
    for file in files {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|ending| ending == "plant") {
            let name = path.file_stem().expect("a name").to_string_lossy();
            let text = fs::read_to_string(&path).expect("a plant");
            let edits = edits(&text);
            plants.push(Plant {
                name: name.into_owned(),
                edits,
            });
        }
    }
    plants.sort_by(|one, two| one.name.cmp(&two.name));
    plants
}

/// `File: path`, then the shipped and the planted text between lines of dashes.
fn edits(text: &str) -> Vec<Edit> {
    let parts = text.split("File: ").skip(1);
    let edit = |part: &str| {
        let (file, rest) = part.split_once("\n--- shipped\n")?;
        let (shipped, rest) = rest.split_once("\n--- planted\n")?;
        let (planted, _) = rest.split_once("\n--- end\n")?;
        Some(Edit {
            file: file.to_owned(),
            shipped: shipped.to_owned(),
            planted: planted.to_owned(),
        })
    };
    parts
        .map(|part| edit(part).expect("a whole edit"))
        .collect()
}
