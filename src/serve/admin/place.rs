//! Where the admin socket of a server is, and where to look for those of others.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use usbip_fast_native::local::{self, LocalError, LocalListener};

use crate::config::AdminChoice;
use crate::error::Error;

/// The folder's name.
const PROGRAM: &str = "usbip-fast";

/// The socket of the only server of a user.
const FIRST_NAME: &str = "serve.sock";

/// Opens the admin socket of a server that listens at `listen`, if it is to have one. Without a
/// path from the user it is `serve.sock` in the folder of this user's sockets, or has the port in
/// its name where another server has taken that; a server that cannot have it does without.
///
/// # Errors
///
/// When the path that the user has named cannot be had.
pub fn open(choice: &AdminChoice, listen: &[SocketAddr]) -> Result<Option<LocalListener>, Error> {
    let opened = match choice {
        AdminChoice::Off => return Ok(None),
        AdminChoice::At(path) => LocalListener::open(path).map(Some).map_err(|error| {
            let advice = "name another file with --admin PATH, or none with --admin none";
            Error::Failed(format!("the admin socket {} {error}; {advice}", path.display()))
        })?,
        AdminChoice::Usual => open_default(&local::runtime_folder(PROGRAM), listen),
    };
    if let Some(listener) = &opened {
        tracing::info!("admin socket: {}", listener.path().display());
    }
    Ok(opened)
}

fn open_default(folder: &Path, listen: &[SocketAddr]) -> Option<LocalListener> {
    match open_in(folder, listen) {
        Ok(listener) => Some(listener),
        Err(error) => {
            let at = folder.display();
            tracing::warn!("no admin socket, so no stats: {at} {error} (--admin PATH)");
            None
        }
    }
}

/// Opens the admin socket of a server in `folder`, which is made if it is not there, under the
/// first name that no other server has.
///
/// # Errors
///
/// When the folder is not this user's alone, or no name is left.
pub fn open_in(folder: &Path, listen: &[SocketAddr]) -> Result<LocalListener, LocalError> {
    local::prepare_folder(folder)?;
    local::sweep(folder);
    let mut names = vec![FIRST_NAME.to_owned()];
    names.extend(listen.iter().map(|address| format!("serve-{}.sock", address.port())));
    // The same port at two addresses.
    names.push(format!("serve-pid-{}.sock", std::process::id()));
    let mut last = LocalError::InUse;
    for name in names {
        match LocalListener::open(&folder.join(name)) {
            Err(error @ LocalError::InUse) => last = error,
            other => return other,
        }
    }
    Err(last)
}

/// The sockets of the servers that run, in the folder of this user; root sees those of all users
/// behind its own.
#[must_use]
pub fn running() -> Vec<PathBuf> {
    let mut folders = vec![local::runtime_folder(PROGRAM)];
    if usbip_fast_native::process::is_superuser() {
        folders.extend(local::runtime_folders_of_users(PROGRAM));
    }
    let sockets = folders.iter().flat_map(|folder| local::sockets(folder));
    sockets.filter(|path| local::is_live(path)).collect()
}
