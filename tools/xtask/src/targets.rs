//! Compiles the workspace for systems that this machine is not.
//!
//! Nothing is linked or run: the check says that the code is right Rust for the target, which
//! keeps the platform modules alive between runs on real machines. The standard library of the
//! target is built from source, because a compiler package brings it for its own system only.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::toolchain::{Toolchain, Unavailable};

/// How thoroughly a target is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Library, program and tests pass clippy without a warning.
    Lint,
    /// Library, program and tests compile.
    Tests,
    /// Library and program compile.
    Program,
}

/// A target by its triple.
type Check = (&'static str, Depth);

/// macOS, where the program is fully supported but cannot be tested here.
pub const DARWIN: &[Check] =
    &[("aarch64-apple-darwin", Depth::Lint), ("x86_64-apple-darwin", Depth::Tests)];

/// One more processor, and systems where the program only says that it does not support them.
pub const PORTABLE: &[Check] = &[
    ("aarch64-unknown-linux-gnu", Depth::Tests),
    ("x86_64-pc-windows-gnu", Depth::Program),
    ("x86_64-unknown-freebsd", Depth::Program),
];

const PACKAGES: [&str; 2] = ["usbip-fast", "usbip-fast-native"];

/// Runs `checks` and prints the count; false when one failed. Where the toolchain cannot be had,
/// prints why and counts nothing.
pub fn run(name: &str, checks: &[Check]) -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("two levels up")?;
    let toolchain = match Toolchain::unpacked() {
        Ok(toolchain) => toolchain,
        Err(Unavailable(why)) => {
            println!("not run: {name}: {why}");
            return Ok(true);
        }
    };
    let control = control(root)?;
    let (mut passed, mut failed) = (0, 0);
    for &(triple, depth) in checks {
        let start = Instant::now();
        let good = check(&toolchain, root, triple, depth)?;
        println!("{triple}: {} ({} s)", verdict(good), start.elapsed().as_secs());
        // A check that lets a type error pass has checked nothing.
        let caught = finds_error(&toolchain, &control, root, triple)?;
        println!("{triple}: a deliberate error is {}", if caught { "found" } else { "NOT FOUND" });
        for ok in [good, caught] {
            if ok { passed += 1 } else { failed += 1 }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn verdict(good: bool) -> &'static str {
    if good { "ok" } else { "FAILED" }
}

fn check(toolchain: &Toolchain, root: &Path, triple: &str, depth: Depth) -> Result<bool> {
    let packages: Vec<&str> = PACKAGES.iter().flat_map(|&package| ["-p", package]).collect();
    let mut cargo = cargo(toolchain, root, triple, depth == Depth::Lint);
    cargo.current_dir(root).args(["--locked", "--lib", "--bins"]).args(packages);
    if depth != Depth::Program {
        cargo.arg("--tests");
    }
    if depth == Depth::Lint {
        cargo.args(["--", "-D", "warnings"]);
    }
    Ok(cargo.status().context("cargo can be started")?.success())
}

/// Whether the same check fails on the package `control`, and for the reason it should.
fn finds_error(toolchain: &Toolchain, control: &Path, root: &Path, triple: &str) -> Result<bool> {
    let mut cargo = cargo(toolchain, root, triple, false);
    let output = cargo.current_dir(control).output().context("cargo can be started")?;
    let mismatch = String::from_utf8_lossy(&output.stderr).contains("E0308");
    Ok(!output.status.success() && mismatch)
}

/// Cargo for a target, whose standard library is built once, below `root`.
fn cargo(toolchain: &Toolchain, root: &Path, triple: &str, lint: bool) -> Command {
    let mut cargo = toolchain.cargo();
    cargo
        .arg(if lint { "clippy" } else { "check" })
        .args(["--target", triple, "-Zbuild-std=std,panic_abort,proc_macro,test"])
        .arg("--target-dir")
        .arg(root.join("target/other"));
    cargo
}

/// Writes a package with a type error that only the target's code contains.
fn control(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/other/control");
    std::fs::create_dir_all(&folder)?;
    let manifest = "[package]\nname = \"control\"\nedition = \"2024\"\n[workspace]\n\
        [lib]\npath = \"lib.rs\"\n[profile.dev]\ndebug = \"line-tables-only\"\n";
    let here = format!(
        "all(target_os = \"{}\", target_arch = \"{}\")",
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    let library = format!("#[cfg(not({here}))]\npub const WRONG: u8 = \"text\";\n");
    std::fs::write(folder.join("Cargo.toml"), manifest)?;
    std::fs::write(folder.join("lib.rs"), library)?;
    Ok(folder)
}
