//! The style, as a test: what `STYLE.md` asks for and a program can see.

#![allow(clippy::disallowed_methods, reason = "reads the sources")]

mod source;

use std::collections::BTreeSet;

use source::{Source, code, files, item_length, rust_files, without_tests};

/// Columns of a line of code.
const COLUMNS: usize = 100;

/// Lines of a file, tests apart.
const FILE_LINES: usize = 600;

/// Lines of a function, from its `fn` to its closing brace, tests apart.
const FUNCTION_LINES: usize = 70;

/// Words that mark unfinished work. Put together here so that this file does not find itself.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Code that must not be committed.
const BANNED: [(&str, &str); 4] = [
    ("todo!", "unfinished"),
    ("unimplemented!", "unfinished"),
    ("#[ignore", "a test that does not run"),
    ("dbg!", "left over from debugging"),
];

/// Folders of one person's machine; nobody else has them.
const MACHINE_PATHS: [&str; 3] =
    [concat!("/wo", "rk/"), concat!("/tmp/", "wt"), concat!("/ho", "me/")];

#[test]
fn rust_files_are_tidy() {
    let findings = rust_files().iter().flat_map(rust_findings).collect::<Vec<_>>();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn all_text_is_tidy() {
    const FOLDERS: [&str; 14] = [
        "src",
        "native",
        "tests",
        "examples",
        "benches",
        "fuzz",
        "tools",
        "docs",
        ".ci",
        ".cargo",
        "README.md",
        "ARCHITECTURE.md",
        "STYLE.md",
        "CHANGELOG.md",
    ];
    let found = files(&FOLDERS, &[""]);
    let findings = found.iter().flat_map(text_findings).collect::<Vec<_>>();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn no_file_is_dead() {
    let manifests = files(&["Cargo.toml", "native", "tools", "fuzz", "benches"], &["Cargo.toml"]);
    let dead = dead_files(&rust_files(), &manifests);
    assert!(dead.is_empty(), "no mod statement leads to {dead:?}");
}

fn rust_findings(file: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    let mut find = |line: usize, what: &str| findings.push(format!("{}:{line}: {what}", file.path));
    for (index, line) in file.text.lines().enumerate() {
        if line.chars().count() > COLUMNS {
            find(index + 1, "line longer than 100 columns");
        }
    }
    let code = code(&file.text);
    for (index, line) in code.lines().enumerate() {
        for (word, why) in BANNED {
            if line.contains(word) {
                find(index + 1, why);
            }
        }
    }
    if !file.text.starts_with("//!") && !file.path.ends_with("tests.rs") {
        find(1, "no doc comment that says what the module is for");
    }
    if !file.test {
        let code = without_tests(&code);
        production_findings(&file.path, &code, &mut find);
    }
    findings
}

/// What holds for code that is not a test.
fn production_findings(path: &str, code: &str, find: &mut impl FnMut(usize, &str)) {
    let lines = code.trim_end().lines().count();
    if lines > FILE_LINES {
        find(lines, "file longer than 600 lines without its tests");
    }
    for (line, length) in functions(code) {
        if length > FUNCTION_LINES {
            find(line, &format!("function of {length} lines, more than 70"));
        }
    }
    if path.starts_with("src/") || path.starts_with("native/") {
        for (index, line) in code.lines().enumerate() {
            if line.contains(".unwrap()") {
                find(index + 1, "unwrap: say with expect which invariant holds");
            }
        }
    }
}

/// First line and number of lines of each function with a body.
fn functions(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|each| each.is_alphanumeric() || each == '_') {
            continue;
        }
        let body = &code[at..at + item_length(&code[at..])];
        if body.ends_with('}') {
            found.push((code[..at].matches('\n').count() + 1, body.matches('\n').count() + 1));
        }
    }
    found
}

fn text_findings(file: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    let mut find = |line: usize, what: &str| findings.push(format!("{}:{line}: {what}", file.path));
    for (index, line) in file.text.split('\n').enumerate() {
        if line.contains('\t') && !file.path.ends_with("Makefile") {
            find(index + 1, "tab");
        }
        if line.ends_with([' ', '\r']) {
            find(index + 1, "blank at the end of the line");
        }
        if UNFINISHED.iter().any(|word| has_word(line, word)) {
            find(index + 1, "unfinished");
        }
        if MACHINE_PATHS.iter().any(|path| line.contains(path)) {
            find(index + 1, "path of one person's machine");
        }
    }
    if !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")) {
        find(file.text.lines().count(), "a file ends with one line break");
    }
    findings
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|each: char| !each.is_alphanumeric() && each != '_').any(|each| each == word)
}

/// Rust files that no crate root reaches through `mod` statements.
fn dead_files(files: &[Source], manifests: &[Source]) -> Vec<String> {
    let known: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut alive = BTreeSet::new();
    let mut waiting: Vec<String> = manifests.iter().flat_map(named_roots).collect();
    waiting.extend(files.iter().map(|file| &file.path).filter(|path| is_root(path)).cloned());
    while let Some(path) = waiting.pop() {
        if !known.contains(path.as_str()) || !alive.insert(path.clone()) {
            continue;
        }
        let file = files.iter().find(|file| file.path == path).expect("it is known");
        waiting.extend(submodules(file));
    }
    files.iter().map(|file| file.path.clone()).filter(|path| !alive.contains(path)).collect()
}

/// Roots that cargo finds by their place.
fn is_root(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let last = folder.rsplit('/').next().unwrap_or(folder);
    match last {
        "src" => name == "lib.rs" || name == "main.rs",
        "bin" => true,
        "tests" | "examples" | "benches" => !folder.contains("src/"),
        _ if name == "main.rs" => {
            let above = folder.rsplit('/').nth(1).unwrap_or_default();
            ["tests", "examples", "benches"].contains(&above)
        }
        _ => name == "build.rs",
    }
}

/// Roots that a manifest names with `path = "….rs"`.
fn named_roots(manifest: &Source) -> Vec<String> {
    let folder = manifest.path.trim_end_matches("Cargo.toml");
    let named = manifest.text.lines().filter_map(|line| {
        line.trim()
            .strip_prefix("path = \"")?
            .strip_suffix('"')
            .filter(|path| path.ends_with(".rs"))
    });
    named.map(|path| format!("{folder}{path}")).collect()
}

/// Where the modules that a file declares may stand.
fn submodules(file: &Source) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let stem = name.trim_end_matches(".rs");
    let own = match is_root(&file.path) || stem == "mod" || named_like_root(&file.path) {
        true => folder.to_owned(),
        false => format!("{folder}/{stem}"),
    };
    let mut found = Vec::new();
    let mut redirected = None;
    let code = code(&file.text);
    for (line, original) in code.lines().zip(file.text.lines()) {
        if let Some(path) = original.trim().strip_prefix("#[path = \"") {
            redirected = path.strip_suffix("\"]").map(|path| format!("{folder}/{path}"));
        }
        let Some(name) = declared_module(line) else { continue };
        match redirected.take() {
            Some(path) => found.push(path),
            None => found.extend([format!("{own}/{name}.rs"), format!("{own}/{name}/mod.rs")]),
        }
    }
    found
}

/// Fuzz targets are crate roots that their manifest names.
fn named_like_root(path: &str) -> bool {
    path.starts_with("fuzz/")
}

/// The name in a line `pub(crate) mod name;`.
fn declared_module(line: &str) -> Option<&str> {
    let line = line.trim().strip_suffix(';')?;
    let (before, name) = line.rsplit_once("mod ")?;
    let declares = before.is_empty() || (before.starts_with("pub") && before.ends_with(' '));
    declares.then_some(name)
}

/// The checkers must find what they are there for.
mod negative {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), test: false }
    }

    fn rust(text: &str) -> usize {
        rust_findings(&source("src/a.rs", &format!("//! Doc.\n{text}"))).len()
    }

    #[test]
    fn untidy_rust_is_found() {
        assert_eq!(rust(&format!("// {}", "x".repeat(97))), 0);
        assert_eq!(rust(&format!("// {}", "x".repeat(98))), 1);
        assert_eq!(rust("fn f() { todo!() }"), 1);
        assert_eq!(rust("fn f() { unimplemented!() }"), 1);
        assert_eq!(rust("fn f() { dbg!(1); }"), 1);
        assert_eq!(rust("#[test]\n#[ignore = \"slow\"]\nfn f() {}"), 1);
        assert_eq!(rust("fn f() { g().unwrap() }"), 1);
        assert_eq!(rust("#[cfg(test)]\nmod tests { fn f() { g().unwrap() } }"), 0);
        assert_eq!(rust("// todo! unimplemented! .unwrap()\nconst S: &str = \"dbg!\";"), 0);
        assert_eq!(rust_findings(&source("src/a.rs", "fn f() {}\n")).len(), 1);
    }

    #[test]
    fn long_files_and_functions_are_found() {
        assert_eq!(rust(&"const A: u8 = 1;\n".repeat(599)), 0);
        assert_eq!(rust(&"const A: u8 = 1;\n".repeat(600)), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(900));
        assert_eq!(rust(&tests), 0);
        let function = |lines| format!("fn f(a: [u8; 2]) {{\n{}}}\n", "{ g(); }\n".repeat(lines));
        assert_eq!(rust(&function(68)), 0);
        assert_eq!(rust(&function(69)), 1);
        assert_eq!(functions("trait T { fn a(); fn b() {\n} }\nfn c() {}"), [(1, 2), (3, 1)]);
    }

    #[test]
    fn untidy_text_is_found() {
        let found = |text: &str| text_findings(&source("docs/a.md", text)).len();
        assert_eq!(found("fine\n"), 0);
        assert_eq!(found("a\tb\n"), 1);
        assert_eq!(found("blank \n"), 1);
        assert_eq!(found("return\r\n"), 1);
        assert_eq!(found("no end"), 1);
        assert_eq!(found("two ends\n\n"), 1);
        for word in UNFINISHED {
            assert_eq!(found(&format!("a {word}: b\n")), 1, "{word}");
            assert_eq!(found(&format!("a{word}b\n")), 0, "{word}");
        }
        for path in MACHINE_PATHS {
            assert_eq!(found(&format!("see {path}x\n")), 1, "{path}");
        }
    }

    #[test]
    fn dead_files_are_found() {
        let files = [
            source("src/lib.rs", "pub mod a;\npub(crate) mod b;\n#[path = \"other.rs\"]\nmod c;"),
            source("src/a.rs", "// mod d;\nmod e;"),
            source("src/a/e.rs", ""),
            source("src/b/mod.rs", "mod f;"),
            source("src/b/f.rs", ""),
            source("src/other.rs", ""),
            source("src/a/d.rs", ""),
            source("src/e.rs", ""),
            source("tests/g.rs", "mod h;"),
            source("tests/h/mod.rs", ""),
            source("tests/i/mod.rs", ""),
            source("tests/l/main.rs", "mod m;"),
            source("tests/l/m.rs", ""),
            source("fuzz/targets/j.rs", ""),
            source("fuzz/targets/k.rs", ""),
        ];
        let manifest = source("fuzz/Cargo.toml", "[[bin]]\npath = \"targets/j.rs\"\n");
        let dead = dead_files(&files, &[manifest]);
        assert_eq!(dead, ["src/a/d.rs", "src/e.rs", "tests/i/mod.rs", "fuzz/targets/k.rs"]);
    }
}
