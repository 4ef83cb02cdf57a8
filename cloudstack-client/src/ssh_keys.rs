//! SSH keys that machines can be deployed with.

use crate::call::{Call, List};
use crate::job::{one, success};
use crate::record::{Password, record};

record! {
    /// A key.
    KeyPair in "sshkeypair" by name;
    /// Its name, unique in the account.
    name: String = "name",
    /// The MD5 of the public key, in hex with colons.
    fingerprint: Option<String> = "fingerprint",
    /// Whose it is.
    account: Option<String> = "account",
    /// The private key, in the answer that made it only.
    private_key: Option<Password> = "privatekey",
}

/// `listSSHKeyPairs` of this account.
#[must_use]
pub fn list() -> Call<List<KeyPair>> {
    Call::list("SSH keys: list", "listSSHKeyPairs")
}

/// `registerSSHKeyPair`: a public key as it stands in `id_ed25519.pub`.
#[must_use]
pub fn register(name: &str, public_key: &str) -> Call<KeyPair> {
    Call::change(format!("SSH key {name}: register"), "registerSSHKeyPair", one)
        .with_id("name", name)
        .with("publickey", public_key.trim())
}

/// `createSSHKeyPair`: the cloud makes a key, and gives the private one once.
#[must_use]
pub fn create(name: &str) -> Call<KeyPair> {
    Call::change(format!("SSH key {name}: create"), "createSSHKeyPair", one).with_id("name", name)
}

/// `deleteSSHKeyPair`.
#[must_use]
pub fn delete(name: &str) -> Call<()> {
    Call::change(format!("SSH key {name}: delete"), "deleteSSHKeyPair", success)
        .with_id("name", name)
}
