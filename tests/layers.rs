//! The direction of dependencies, as a test: what each module of the library may name, and what
//! only `native` and the command line may do. The table is the one of `ARCHITECTURE.md`.

#![allow(clippy::disallowed_methods, reason = "reads the sources")]

mod source;

use source::{Source, code, files, paths, without_tests};

/// Module, and the modules that its code (tests apart) may name. `native` is the crate.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("error", &[]),
    ("network", &[]),
    ("config", &["error", "ledger", "limits", "network"]),
    ("usb", &["limits"]),
    ("wire", &["limits", "usb"]),
    ("control", &["limits", "usb", "wire"]),
    ("ledger", &["limits", "network", "usb"]),
    ("session", &["limits", "usb", "wire"]),
    ("telemetry", &["limits", "usb", "wire"]),
    ("device", &["limits", "native", "usb"]),
    ("host", &["limits", "native", "session", "usb"]),
    ("hotplug", &["limits", "native", "usb"]),
    ("reactor", &["limits", "native"]),
    ("serve", COMPOSITION),
    ("attach", COMPOSITION),
];

/// What the compositions may name: all but each other and the command line.
const COMPOSITION: &[&str] = &[
    "config",
    "control",
    "device",
    "error",
    "host",
    "hotplug",
    "ledger",
    "limits",
    "native",
    "network",
    "reactor",
    "session",
    "telemetry",
    "usb",
    "wire",
];

/// These may name everything: the command line, and the world of faults that sessions are tried in.
const TOP: [&str; 4] = ["cli", "lib", "main", "simulation"];

/// What only `native` and the command line may use. Addresses are data and free to use.
/// A joined thread's handle too: what matters is who starts threads.
const SYSTEM: [&str; 14] = [
    "std::fs",
    "std::os::unix::net",
    "std::thread::Builder",
    "std::thread::park",
    "std::thread::scope",
    "std::thread::sleep",
    "std::thread::spawn",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::process::Command",
];

/// Types that would mean that the ledger has more than one owner.
const LOCKS: [&str; 5] = ["Mutex", "RwLock", "Condvar", "OnceLock", "Atomic"];

/// Each file with a `target_os` outside the files that choose platform modules, and why.
const PLATFORM_EXCEPTIONS: [(&str, &str); 1] =
    [("native/src/block.rs", "the variant of a block that exists on Linux only")];

#[test]
fn nothing_points_up() {
    assert_clean(&["src"], upward);
}

#[test]
fn only_native_and_the_command_line_touch_the_system() {
    assert_clean(&["src"], system);
}

#[test]
fn the_ledger_has_no_locks() {
    assert_clean(&["src/ledger", "src/ledger.rs"], locks);
}

#[test]
fn the_library_has_no_unsafe_code() {
    assert_clean(&["src", "tools/xtask/src", "examples"], unsafe_code);
}

#[test]
fn unsafe_code_in_native_says_why_it_is_sound() {
    assert_clean(&["native/src"], undocumented_unsafe);
}

#[test]
fn platforms_are_chosen_in_few_files() {
    assert_clean(&["src", "native/src"], platform_choices);
}

#[test]
fn exceptions_are_needed() {
    for (path, why) in PLATFORM_EXCEPTIONS {
        let found = files(&[path], &[".rs"]);
        let used = found.iter().any(|file| code(&file.text).contains("target_os"));
        assert!(used, "{path} ({why}) needs no exception any more");
    }
}

#[test]
fn native_knows_nothing_of_the_library() {
    assert_clean(&["native/src"], |_, text| {
        let code = code(text);
        lines_with(&code, |line| words(line).any(|word| word == "usbip_fast"))
            .map(|number| format!("{number}: native names the library"))
            .collect()
    });
}

/// Runs `check` over the Rust files of `folders`, tests apart, and fails with all findings.
fn assert_clean(folders: &[&str], check: fn(&str, &str) -> Vec<String>) {
    // All of them are read, because what is declared for tests only is said in another file.
    let all = files(&["src", "native", "tools", "examples"], &[".rs"]);
    let wanted = |file: &&Source| {
        let below = |folder: &&str| file.path.starts_with(&format!("{folder}/"));
        folders.iter().any(|folder| file.path == *folder || below(folder))
    };
    let findings: Vec<String> = all
        .iter()
        .filter(|file| !file.test && wanted(file))
        .flat_map(|file| {
            check(&file.path, &file.text).into_iter().map(|found| format!("{}:{found}", file.path))
        })
        .collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn upward(path: &str, text: &str) -> Vec<String> {
    let module = module_of(path);
    if TOP.contains(&module) {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == module) else {
        return vec![format!("1: module {module} has no row in the table of tests/layers.rs")];
    };
    paths(&without_tests(&code(text)))
        .into_iter()
        .filter_map(|(line, named)| Some((line, top_module(path, &named)?)))
        .filter(|(_, named)| named != module && !allowed.contains(&named.as_str()))
        .map(|(line, named)| format!("{line}: {module} must not name {named}"))
        .collect()
}

/// The top module of a file below `src/`: `usb` for `src/usb/setup.rs`, `serve` for `src/serve.rs`.
fn module_of(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap_or(path);
    below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
}

/// Which top module of the library a path names, if it names one.
fn top_module(file: &str, named: &str) -> Option<String> {
    let parts: Vec<&str> = named.split("::").collect();
    if parts[0] == "usbip_fast_native" {
        return Some("native".to_owned());
    }
    let climbs = parts.iter().take_while(|&&part| part == "super").count();
    if parts[0] == "crate" || (climbs > 0 && climbs >= depth(file)) {
        return parts.get(climbs.max(1)).map(|&part| part.to_owned());
    }
    None
}

/// How many `super` lead from a file's module to the crate's root.
fn depth(file: &str) -> usize {
    let below = file.strip_prefix("src/").unwrap_or(file).trim_end_matches("/mod.rs");
    below.split('/').count()
}

fn system(path: &str, text: &str) -> Vec<String> {
    if module_of(path) == "cli" {
        return Vec::new();
    }
    paths(&without_tests(&code(text)))
        .into_iter()
        .filter(|(_, named)| {
            let below = |banned: &str| named.starts_with(&format!("{banned}::"));
            let whole = named.strip_suffix("::*").unwrap_or(named);
            ["std::net", "std::thread", "std::time"].contains(&whole)
                || SYSTEM.iter().any(|banned| named == banned || below(banned))
        })
        .map(|(line, named)| format!("{line}: {named} belongs to native or cli"))
        .collect()
}

fn locks(_: &str, text: &str) -> Vec<String> {
    let code = without_tests(&code(text));
    lines_with(&code, |line| {
        words(line).any(|word| LOCKS.iter().any(|lock| word.starts_with(lock)))
    })
    .map(|number| format!("{number}: the ledger has one owner and needs no lock"))
    .collect()
}

fn unsafe_code(_: &str, text: &str) -> Vec<String> {
    let code = code(text);
    lines_with(&code, |line| words(line).any(|word| word == "unsafe"))
        .map(|number| format!("{number}: unsafe code belongs to native"))
        .collect()
}

fn undocumented_unsafe(_: &str, text: &str) -> Vec<String> {
    /// How far above the keyword, in lines, the comment of a longer statement may stand.
    const REACH: usize = 10;
    let lines: Vec<&str> = text.lines().collect();
    let code = code(text);
    lines_with(&code, |line| {
        let line = line.trim();
        line.contains("unsafe {") || line.contains("unsafe impl") || line.ends_with("unsafe")
    })
    .filter(|&number| {
        let above = &lines[number.saturating_sub(REACH + 1)..number];
        !above.iter().any(|line| line.contains("SAFETY:"))
    })
    .map(|number| format!("{number}: no SAFETY comment"))
    .collect()
}

fn platform_choices(path: &str, text: &str) -> Vec<String> {
    let chooses = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| path.ends_with(name));
    if chooses || PLATFORM_EXCEPTIONS.iter().any(|(exception, _)| *exception == path) {
        return Vec::new();
    }
    let code = without_tests(&code(text));
    lines_with(&code, |line| words(line).any(|word| word == "target_os" || word == "target_vendor"))
        .map(|number| format!("{number}: platforms are chosen in a mod.rs, lib.rs or main.rs"))
        .collect()
}

/// Numbers, from 1, of the lines for which `wanted` holds.
fn lines_with(code: &str, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = usize> {
    code.lines().enumerate().filter(move |(_, line)| wanted(line)).map(|(index, _)| index + 1)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|each: char| !each.is_alphanumeric() && each != '_')
}

/// The checkers must find what they are there for.
mod negative {
    use super::*;

    fn count(check: fn(&str, &str) -> Vec<String>, path: &str, text: &str) -> usize {
        check(path, text).len()
    }

    #[test]
    fn an_upward_path_is_found_in_every_form() {
        let bad = [
            "use crate::wire::op;",
            "use crate::{limits, wire::{op, urb}};",
            "fn f() { crate::wire::op(); }",
            "use usbip_fast_native::Block;",
            "use usbip_fast_native as n;\nfn f(b: n::Block) {}\nuse usbip_fast_native::*;",
            "use super::super::wire;",
            "pub use super::super::{limits, wire as w};",
        ];
        for text in bad {
            assert_ne!(count(upward, "src/usb/setup.rs", text), 0, "{text}");
        }
        assert_eq!(count(upward, "src/usb/setup.rs", "use crate::{wire::{a, b}, serve};"), 3);
        assert_eq!(count(upward, "src/usb/mod.rs", "use super::wire;"), 1);
        assert_eq!(count(upward, "src/nonsense.rs", ""), 1, "a module without a row");
    }

    #[test]
    fn a_downward_path_and_a_mention_are_not() {
        let good = [
            "use crate::limits::TRANSFER_BYTES;",
            "use crate::usb::speed;",
            "use super::speed::Speed;",
            "//! see crate::wire::op and usbip_fast_native::Block",
            "/* crate::wire::op */ const S: &str = \"crate::wire::op\";",
            "const R: &str = r#\"crate::wire \" ::op\"#; const C: char = '\"';",
            "#[cfg(test)]\nmod tests { use crate::wire::op; }",
        ];
        for text in good {
            assert_eq!(count(upward, "src/usb/setup.rs", text), 0, "{text}");
        }
        assert_eq!(count(upward, "src/cli/mod.rs", "use crate::serve;"), 0);
        assert_eq!(count(upward, "src/serve.rs", "use usbip_fast_native::Arena;"), 0);
    }

    #[test]
    fn sockets_files_threads_and_clocks_are_found() {
        let bad = [
            "use std::net::{SocketAddr, TcpStream};",
            "use std::net;",
            "use std::net::*;",
            "fn f() { std::thread::sleep(D); }",
            "use std::fs::File;",
            "use std::{fs, io};",
            "use std::time::{Duration, Instant};",
        ];
        for text in bad {
            assert_eq!(count(system, "src/serve.rs", text), 1, "{text}");
            assert_eq!(count(system, "src/cli/bench.rs", text), 0, "{text}");
        }
        assert_eq!(count(system, "src/serve.rs", "use std::{net::SocketAddr, time::Duration};"), 0);
    }

    #[test]
    fn modules_declared_for_tests_are_tests() {
        let file = |path: &str, text: &str| Source {
            path: path.to_owned(),
            text: text.to_owned(),
            test: false,
        };
        let mut files = [
            file("src/a/mod.rs", "mod b;\n#[cfg(test)]\nmod contract;\nmod d;"),
            file("src/a/b.rs", "#[cfg(test)]\npub(crate) mod fakes;"),
            file("src/a/contract.rs", ""),
            file("src/a/contract/rows.rs", ""),
            file("src/a/contracts.rs", ""),
            file("src/a/b/fakes.rs", ""),
        ];
        source::mark_test_modules(&mut files);
        let marked: Vec<bool> = files.iter().map(|file| file.test).collect();
        assert_eq!(marked, [false, false, true, true, false, true]);
    }

    #[test]
    fn locks_are_found() {
        assert_eq!(count(locks, "src/ledger/mod.rs", "use std::sync::Mutex;"), 1);
        assert_eq!(count(locks, "src/ledger/mod.rs", "n: AtomicUsize,\nm: RwLock<u8>,"), 2);
        assert_eq!(count(locks, "src/ledger/mod.rs", "// no Mutex here\nstruct Ledger;"), 0);
    }

    #[test]
    fn unsafe_code_is_found() {
        assert_eq!(count(unsafe_code, "src/a.rs", "fn f() { unsafe { g() } }"), 1);
        assert_eq!(count(unsafe_code, "src/a.rs", "#![forbid(unsafe_code)] // unsafe"), 0);
        let bare = "fn f() {\n    unsafe { g() }\n}";
        assert_eq!(count(undocumented_unsafe, "native/src/a.rs", bare), 1);
        assert_eq!(count(undocumented_unsafe, "native/src/a.rs", "unsafe impl Send for A {}"), 1);
        let reasoned = "fn f() {\n    // SAFETY: g asks for nothing.\n    unsafe { g() }\n}";
        assert_eq!(count(undocumented_unsafe, "native/src/a.rs", reasoned), 0);
    }

    #[test]
    fn scattered_platform_choices_are_found() {
        let choice = "#[cfg(target_os = \"linux\")]\nfn f() {}";
        assert_eq!(count(platform_choices, "native/src/socket.rs", choice), 1);
        assert_eq!(count(platform_choices, "src/host/vhci.rs", "if cfg!(target_os = \"x\") {}"), 1);
        assert_eq!(count(platform_choices, "src/host/mod.rs", choice), 0);
    }
}
