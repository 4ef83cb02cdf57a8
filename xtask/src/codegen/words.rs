//! What the calls of a migration do, in words of our own: for the rest the name has to speak.

/// Class, message, sentence.
const WORDS: &[(&str, &str, &str)] = &[
    ("SR", "scan", "looks for disks that came or went behind the server's back"),
    ("SR", "update", "refreshes the repository's figures of its space"),
    ("VBD", "eject", "takes the medium out of a CD drive"),
    ("VBD", "insert", "puts a disk image into a CD drive"),
    ("VBD", "plug", "attaches the disk to its running VM"),
    ("VBD", "unplug", "detaches the disk from its running VM"),
    ("VBD", "unplug_force", "detaches the disk without asking the guest"),
    ("VDI", "clone", "makes a writable copy that shares unchanged blocks with the disk"),
    ("VDI", "copy", "makes an independent copy, which has no chain"),
    ("VDI", "data_destroy", "drops a snapshot's data and keeps its change-tracking metadata"),
    ("VDI", "disable_cbt", "ends the tracking of changed blocks"),
    ("VDI", "enable_cbt", "begins to track changed blocks"),
    (
        "VDI",
        "list_changed_blocks",
        "tells which 64 KiB blocks changed between two snapshots: a base64 bitmap, highest bit first",
    ),
    (
        "VDI",
        "get_nbd_info",
        "tells where the disk can be read by NBD; empty if no network allows it",
    ),
    ("VDI", "resize", "grows the disk; most repositories refuse to shrink"),
    ("VDI", "snapshot", "makes a read-only copy of the disk as it is now"),
    ("VIF", "plug", "attaches the network device to its running VM"),
    ("VIF", "unplug", "detaches the network device from its running VM"),
    ("VM", "checkpoint", "snapshots disks and memory; the VM stands still while memory is saved"),
    ("VM", "clean_reboot", "asks the guest to restart"),
    ("VM", "clean_shutdown", "asks the guest to shut down"),
    (
        "VM",
        "clone",
        "makes a halted VM or snapshot again under a new name, sharing unchanged blocks",
    ),
    ("VM", "copy", "makes an independent copy on a repository; chains are collapsed"),
    ("VM", "hard_reboot", "restarts the VM as by its reset button"),
    ("VM", "hard_shutdown", "stops the VM as by pulling its plug"),
    ("VM", "import", "makes the server fetch a VM from a URL"),
    ("VM", "provision", "makes the disks that the VM's template asks for"),
    ("VM", "revert", "puts the VM back to one of its snapshots"),
    ("VM", "snapshot", "snapshots the VM with its disks; a running VM goes on running"),
    ("VM", "start", "starts a halted VM"),
    ("VM", "start_on", "starts a halted VM on one host"),
    ("host", "call_plugin", "runs a script of the host's plugin folder"),
    ("host", "get_server_certificate", "gives the host's TLS certificate as PEM"),
    ("host", "get_servertime", "gives the host's clock in UTC"),
    ("task", "cancel", "asks the server to end the task; only tasks that allow it can be"),
    ("task", "create", "makes a task for a raw transfer to report to"),
    ("task", "destroy", "removes the task; a pending one is removed when it ends"),
];

/// The sentence for a message, if there is one.
pub(crate) fn about(class: &str, message: &str) -> Option<&'static str> {
    WORDS.iter().find(|(c, m, _)| *c == class && *m == message).map(|(_, _, words)| *words)
}
