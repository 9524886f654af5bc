//! A compiler that has the sources of its own standard library, unpacked and not installed.
//!
//! Compiling for a foreign target needs a standard library for it, and building one from source
//! needs sources that match the compiler exactly. Debian ships both in step (the packages
//! `rustc-web` and `rust-web-src`); they are unpacked into the cache and used from there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Compiler, cargo, sources, clippy, and the import-library tool that Windows targets need.
const PACKAGES: [&str; 5] =
    ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy", "binutils-mingw-w64-x86-64"];

/// The unpacked toolchain.
pub struct Toolchain {
    root: PathBuf,
}

/// Why there is none, for people.
pub struct Unavailable(pub String);

impl Toolchain {
    /// Finds the toolchain in the cache, or fetches it from the Debian mirror.
    pub fn unpacked() -> Result<Self, Unavailable> {
        let folder = cache()?.join("rust-web");
        let root = folder.join("root");
        let stamp = folder.join("complete");
        let wanted = PACKAGES.join("\n");
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(Self { root });
        }
        fetch(&folder, &wanted).map_err(|error| Unavailable(format!("{error:#}")))?;
        Ok(Self { root })
    }

    /// The unpacked cargo, made to use the unpacked compiler.
    pub fn cargo(&self) -> Command {
        let programs = self.root.join("usr/bin");
        let mut command = Command::new(programs.join("cargo"));
        command
            .env("PATH", search_path(&programs))
            .env("RUSTC", programs.join("rustc"))
            .env("LD_LIBRARY_PATH", self.root.join(format!("usr/lib/{}", multiarch())))
            // Building the standard library is a feature of nightly compilers; this one is stable.
            .env("RUSTC_BOOTSTRAP", "1");
        for variable in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTDOC", "RUSTFLAGS", "CARGO_TARGET_DIR"] {
            command.env_remove(variable);
        }
        command
    }
}

/// Cargo looks for `cargo-clippy` along the path and puts its home's programs first unless they
/// are named: name them last, or clippy would be that of another compiler.
fn search_path(programs: &Path) -> OsString {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let own = home.map(|home| home.join("bin"));
    let before = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = vec![programs.to_path_buf()];
    folders.extend(std::env::split_paths(&before).filter(|folder| Some(folder) != own.as_ref()));
    folders.extend(own);
    std::env::join_paths(folders).unwrap_or(before)
}

fn multiarch() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

fn cache() -> Result<PathBuf, Unavailable> {
    let named = std::env::var_os("USBIP_FAST_CACHE").map(PathBuf::from);
    let below = |variable: &str, rest: &str| {
        std::env::var_os(variable).map(|folder| PathBuf::from(folder).join(rest))
    };
    named
        .or_else(|| below("XDG_CACHE_HOME", "usbip-fast"))
        .or_else(|| below("HOME", ".cache/usbip-fast"))
        .ok_or_else(|| Unavailable("no HOME to keep a toolchain in".to_owned()))
}

/// Downloads the packages with what they need and unpacks them beside `folder`, which is replaced
/// only when all is there: two runs at once do each other no harm.
fn fetch(folder: &Path, stamp: &str) -> Result<()> {
    let new = folder.with_extension(format!("new-{}", std::process::id()));
    let archives = new.join("archives");
    std::fs::create_dir_all(&archives).with_context(|| format!("cannot make {archives:?}"))?;
    let outcome = fill(&new, &archives, stamp).and_then(|()| {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::rename(&new, folder)?;
        Ok(())
    });
    if outcome.is_err() {
        let _ = std::fs::remove_dir_all(&new);
    }
    outcome
}

fn fill(new: &Path, archives: &Path, stamp: &str) -> Result<()> {
    let mut names = with_dependencies();
    if names.is_err() && is_root() {
        succeed(Command::new("apt-get").args(["update", "-q"]))?;
        names = with_dependencies();
    }
    let names = names?;
    println!("fetching {} Debian packages, about 150 MB", names.len());
    succeed(Command::new("apt-get").args(["download", "-q"]).args(names).current_dir(archives))?;
    for entry in std::fs::read_dir(archives)? {
        succeed(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(new.join("root")))?;
    }
    std::fs::remove_dir_all(archives)?;
    std::fs::write(new.join("complete"), stamp)?;
    Ok(())
}

/// The packages and those of their dependencies that the system lacks.
fn with_dependencies() -> Result<Vec<String>> {
    let output = Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends", "--print-uris"])
        .args(PACKAGES)
        .output()
        .context("apt-get is missing (this check needs a Debian system)")?;
    ensure!(output.status.success(), "apt-get knows no {}", PACKAGES.join(" "));
    let mut names = packages_of(&String::from_utf8_lossy(&output.stdout));
    names.extend(PACKAGES.map(str::to_owned));
    names.sort();
    names.dedup();
    Ok(names)
}

/// Package names from lines `'URI' NAME_VERSION_ARCH.deb SIZE HASH`.
fn packages_of(listing: &str) -> Vec<String> {
    listing
        .lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split(' ').nth(1)?.split('_').next())
        .map(str::to_owned)
        .collect()
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} cannot be started"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_names_are_read_from_the_listing() {
        let listing = "Reading package lists...\n\
            'http://mirror/pool/l/llvm_1%3a22.deb' libllvm22_1%3a22.1-1_amd64.deb 29 SHA256:1\n\
            'http://mirror/pool/r/rustc.deb' rustc-web_1.96.0+dfsg1-1_amd64.deb 4450500 SHA256:2\n";
        assert_eq!(packages_of(listing), ["libllvm22", "rustc-web"]);
        assert!(packages_of("E: nothing\n").is_empty());
    }

    #[test]
    fn the_toolchain_comes_first_and_cargos_home_last() {
        let path = search_path(Path::new("/toolchain"));
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        assert_eq!(folders[0], Path::new("/toolchain"));
        let homes = folders.iter().filter(|folder| folder.ends_with(".cargo/bin")).count();
        assert!(homes <= 1, "{folders:?}");
    }
}
