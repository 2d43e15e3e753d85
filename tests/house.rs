//! The rules of the house, read from its own sources: who may use whom, where unsafe code lives, and that every kind of
//! state has its file in each room.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may use. Nothing points up.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("sys", &["model"]),
    ("proc", &["model", "sys"]),
    ("tracer", &["proc", "sys", "model"]),
    ("image", &["proc", "sys", "model"]),
    ("net", &["tracer", "image", "proc", "sys", "model"]),
    ("capture", &["net", "tracer", "image", "proc", "sys", "model"]),
    ("restore", &["net", "tracer", "image", "proc", "sys", "model"]),
    ("supervise", &["capture", "restore", "net", "tracer", "image", "proc", "sys", "model"]),
    ("cli", &["supervise", "capture", "restore", "net", "tracer", "image", "proc", "sys", "model"]),
];

/// Files of `model` that are no kind of state, and kinds that need no file in one of the rooms, with the reason.
const NO_KIND: &[&str] = &["basic"];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rooms named by `crate::ROOM` in a source, also inside braces: `use crate::{proc, sys::tasks}`.
fn rooms_used(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut out = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            out.insert(word(rest));
            continue;
        };
        let mut depth = 1;
        let mut start = true;
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if c.is_whitespace() => {}
                _ if start && depth == 1 => {
                    out.insert(word(&list[i..]));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    out
}

#[test]
fn rooms_use_only_what_is_below_them() {
    let rooms: BTreeSet<&str> = MAY_USE.iter().map(|(room, _)| *room).collect();
    let mut wrong = Vec::new();
    for (room, allowed) in MAY_USE {
        for file in sources(&src().join(room)) {
            for used in rooms_used(&fs::read_to_string(&file).unwrap()) {
                if used != *room && rooms.contains(used.as_str()) && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{} uses crate::{used}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_is_known() {
    let rooms: BTreeSet<String> = MAY_USE.iter().map(|(room, _)| (*room).to_owned()).collect();
    let dirs = fs::read_dir(src()).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_dir());
    let found: BTreeSet<String> =
        dirs.map(|e| e.file_name().into_string().unwrap()).filter(|name| name != "bin").collect();
    assert_eq!(found, rooms);
}

#[test]
fn braces_are_read_too() {
    let used =
        rooms_used("use crate::{proc::{self, stat}, sys::tasks,\n model};\n// crate::cli\nlet x = crate::net::y();");
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["model", "net", "proc", "sys"]);
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    for file in sources(&src()) {
        let text = fs::read_to_string(&file).unwrap();
        let allows = text.contains("allow(unsafe_code)");
        assert!(!allows || file.starts_with(src().join("sys")), "{} allows unsafe code", file.display());
    }
    assert!(fs::read_to_string(src().join("lib.rs")).unwrap().contains("#![deny(unsafe_code)]"));
}

#[test]
fn every_kind_of_state_has_its_file_in_each_room() {
    for file in sources(&src().join("model")) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "mod" || NO_KIND.contains(&name.as_str()) {
            continue;
        }
        for room in ["capture", "restore"] {
            assert!(src().join(room).join(format!("{name}.rs")).exists(), "{room} has no {name}.rs");
        }
    }
}
