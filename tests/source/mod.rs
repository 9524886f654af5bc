//! Reads the repository's own sources for the tests of structure and style.
//!
//! This is no parser: it knows comments, literals, braces and paths, which is what those tests
//! need, and it is itself tested where they are.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the repository.
pub struct Source {
    /// Path below the repository's root, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
    /// Whether it is test code: below `tests/`, or a module that is declared for tests only.
    pub test: bool,
}

/// All text files below `folders` of the repository whose name ends in one of `endings`, sorted.
/// A folder may also name a file.
pub fn files(folders: &[&str], endings: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in folders {
        collect(&root.join(folder), &mut paths);
    }
    paths.sort();
    paths.dedup();
    let mut found: Vec<Source> = paths
        .into_iter()
        .filter_map(|path| {
            let below = path.strip_prefix(root).expect("found below the root");
            let name = below.to_string_lossy().replace('\\', "/");
            let wanted = endings.iter().any(|ending| name.ends_with(ending));
            let text = wanted.then(|| fs::read_to_string(&path).ok()).flatten()?;
            Some(Source { test: is_test_file(&name), path: name, text })
        })
        .collect();
    mark_test_modules(&mut found);
    found
}

/// Marks the files behind `#[cfg(test)] mod name;`, and all below them.
pub fn mark_test_modules(files: &mut [Source]) {
    let mut stems = Vec::new();
    for file in files.iter() {
        let mut lines = file.text.lines().map(str::trim).peekable();
        while let Some(line) = lines.next() {
            let declared = (line == "#[cfg(test)]").then(|| lines.peek()).flatten();
            let name = declared.and_then(|line| line.strip_suffix(';')?.split("mod ").nth(1));
            stems.extend(name.map(|name| format!("{}/{name}", module_folder(&file.path))));
        }
    }
    for file in files {
        let below = |stem: &String| {
            file.path
                .strip_prefix(stem.as_str())
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        file.test |= stems.iter().any(below);
    }
}

/// Where the submodules of a file stand.
pub fn module_folder(path: &str) -> &str {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let chooses = ["/mod.rs", "/lib.rs", "/main.rs"].iter().any(|name| path.ends_with(name));
    if chooses { folder } else { path.trim_end_matches(".rs") }
}

/// Rust files of the workspace and of the packages beside it.
pub fn rust_files() -> Vec<Source> {
    files(&["src", "native", "tests", "examples", "benches", "fuzz", "tools"], &[".rs"])
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) {
    const SKIPPED: [&str; 5] = ["target", ".git", "corpus", "artifacts", "coverage"];
    if path.is_file() {
        found.push(path.to_path_buf());
        return;
    }
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !SKIPPED.iter().any(|skipped| name == *skipped) {
            collect(&entry.path(), found);
        }
    }
}

/// The text with the content of comments and of string and character literals blanked out, so
/// that what is left is code. Line breaks stay where they are.
pub fn code(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(&bytes, at);
        if end == at {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        out.extend(bytes[at..end].iter().map(|&each| if each == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_end(text: &[char], at: usize) -> usize {
    let next = text.get(at + 1).copied().unwrap_or(' ');
    match text[at] {
        '/' if next == '/' => until(text, at, |text, here| text[here] == '\n'),
        '/' if next == '*' => block_comment_end(text, at),
        '"' => quoted_end(text, at),
        'r' if (next == '"' || next == '#') && !follows_name(text, at) => raw_end(text, at),
        '\'' => character_end(text, at),
        _ => at,
    }
}

fn until(text: &[char], from: usize, stop: impl Fn(&[char], usize) -> bool) -> usize {
    (from..text.len()).find(|&here| stop(text, here)).unwrap_or(text.len())
}

fn block_comment_end(text: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at + 1 < text.len() {
        match (text[at], text[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn quoted_end(text: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn raw_end(text: &[char], from: usize) -> usize {
    let hashes = text[from + 1..].iter().take_while(|&&each| each == '#').count();
    if text.get(from + 1 + hashes) != Some(&'"') {
        return from;
    }
    let closes = |text: &[char], here: usize| {
        text[here] == '"'
            && here > from + 1 + hashes
            && text[here + 1..].iter().take(hashes).filter(|&&each| each == '#').count() == hashes
    };
    (until(text, from, closes) + 1 + hashes).min(text.len())
}

/// A character literal, as against a lifetime.
fn character_end(text: &[char], from: usize) -> usize {
    if text.get(from + 1) == Some(&'\\') {
        return (until(text, from + 3, |text, here| text[here] == '\'') + 1).min(text.len());
    }
    if text.get(from + 2) == Some(&'\'') { from + 3 } else { from }
}

fn follows_name(text: &[char], at: usize) -> bool {
    // `br"…"` is a raw literal, `for"` cannot occur: only a name character other than b matters.
    at > 0 && text[at - 1] != 'b' && is_name(text[at - 1])
}

fn is_name(each: char) -> bool {
    each.is_alphanumeric() || each == '_'
}

/// The code without `#[cfg(test)]` modules; their lines become empty.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut rest = code;
    let mut out = String::with_capacity(code.len());
    while let Some(start) = rest.find(MARK) {
        let after = &rest[start + MARK.len()..];
        let length = if after.trim_start().starts_with("mod ") { item_length(after) } else { 0 };
        out.push_str(&rest[..start]);
        let dropped = &rest[start..start + MARK.len() + length];
        out.extend(dropped.chars().filter(|&each| each == '\n'));
        rest = &rest[start + dropped.len()..];
    }
    out.push_str(rest);
    out
}

/// Bytes up to the end of the first `;` or of the first braced body, whichever comes first.
pub fn item_length(code: &str) -> usize {
    let (mut depth, mut round) = (0_usize, 0_usize);
    for (at, each) in code.char_indices() {
        match each {
            '(' | '[' => round += 1,
            ')' | ']' => round = round.saturating_sub(1),
            ';' if depth == 0 && round == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Whether the place of a file says that it holds tests only.
fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Every path of two or more parts in the code with its line (from 1); `use` trees are spelled out.
pub fn paths(code: &str) -> Vec<(usize, String)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begin = at;
        if tokens[at].1 == "use" {
            at += 1;
            use_tree(&tokens, &mut at, "", &mut found);
        } else if is_name(tokens[at].1.chars().next().unwrap_or(' ')) {
            let path = straight(&tokens, &mut at);
            if path.contains("::") {
                found.push((tokens[begin].0, path));
            }
        }
        at = at.max(begin + 1);
    }
    found
}

fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                _ if is_name(first) => rest.find(|each| !is_name(each)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            if !first.is_whitespace() {
                found.push((number + 1, &rest[..length]));
            }
            rest = &rest[length..];
        }
    }
    found
}

/// Reads `a::b::c`, leaving `at` behind it.
fn straight(tokens: &[(usize, &str)], at: &mut usize) -> String {
    let mut path = tokens[*at].1.to_owned();
    *at += 1;
    while tokens.get(*at).is_some_and(|token| token.1 == "::") {
        let Some(next) = tokens.get(*at + 1) else { break };
        if !next.1.starts_with(is_name) {
            break;
        }
        path.push_str("::");
        path.push_str(next.1);
        *at += 2;
    }
    path
}

fn use_tree(
    tokens: &[(usize, &str)],
    at: &mut usize,
    prefix: &str,
    found: &mut Vec<(usize, String)>,
) {
    while let Some(&(line, token)) = tokens.get(*at) {
        match token {
            ";" => return,
            "}" => {
                *at += 1;
                return;
            }
            "as" => *at += 2,
            "*" => {
                found.push((line, format!("{prefix}*")));
                *at += 1;
            }
            "{" => {
                *at += 1;
                use_tree(tokens, at, prefix, found);
            }
            _ if token.starts_with(is_name) => {
                let path = format!("{prefix}{}", straight(tokens, at));
                let group = tokens.get(*at).is_some_and(|next| next.1 == "::");
                if !group {
                    found.push((line, path));
                    continue;
                }
                *at += 1;
                let below = format!("{path}::");
                if tokens.get(*at).is_some_and(|next| next.1 == "{") {
                    *at += 1;
                    use_tree(tokens, at, &below, found);
                } else {
                    found.push((line, format!("{below}*")));
                    *at += 1;
                }
            }
            _ => *at += 1,
        }
    }
}
