//! What a user's own hive (`NTUSER.DAT`) holds of the machine: report only.
//!
//! Facts from: 314828 (the policy names network, media player and shell settings, and the device ids of
//! push notifications, which a new profile gets anew); where they lie is general knowledge.

use super::{
    generalization::{Evidence, line, some_names},
    registry::Registry,
};

const SHELL: &str = r"Software\Microsoft\Windows\CurrentVersion\Explorer";
/// Keys that only a user who signed in has.
const SHELL_HISTORY: [&str; 5] = [
    "RecentDocs",
    "RunMRU",
    "TypedPaths",
    "UserAssist",
    "MountPoints2",
];

/// One line a subject, present or not.
#[must_use]
pub fn of_user(hive: &Registry<'_>) -> Vec<Evidence> {
    let names = |key: &str| (hive.source(key, None), some_names(&hive.subkeys(key)));
    let mut out = Vec::new();
    let history: Vec<String> = SHELL_HISTORY
        .into_iter()
        .filter(|name| hive.key(&format!("{SHELL}\\{name}")).is_some())
        .map(str::to_owned)
        .collect();
    out.push(line(
        "user_shell_history",
        hive.source(SHELL, None),
        some_names(&history),
        "shell settings: what a user did on this machine",
    ));
    let (source, drives) = names("Network");
    out.push(line(
        "user_network_drives",
        source,
        drives,
        "network settings: a user's mapped drives",
    ));
    let key = r"Software\Microsoft\Windows\CurrentVersion\Internet Settings";
    let proxy = hive.value(key, "ProxyServer").map(|value| value.show());
    out.push(line(
        "user_network_proxy",
        hive.source(key, Some("ProxyServer")),
        proxy.filter(|proxy| !proxy.is_empty()),
        "network settings: a user's proxy",
    ));
    let key = r"Software\Microsoft\MediaPlayer\Player\Settings";
    let client = hive.value(key, "Client ID").map(|value| value.show());
    out.push(line(
        "user_media_player_id",
        hive.source(key, Some("Client ID")),
        client,
        "media player settings: the id under which a user's player is known",
    ));
    let (source, settings) = names(r"Software\Microsoft\MediaPlayer");
    out.push(line(
        "user_media_player",
        source,
        settings,
        "media player settings of a user",
    ));
    let (source, push) = names(r"Software\Microsoft\Windows\CurrentVersion\PushNotifications");
    out.push(line(
        "user_push_notifications",
        source,
        push,
        "device state: a user's registration for push notifications",
    ));
    let key = r"Software\Microsoft\IdentityCRL\ExtendedProperties";
    let device = hive.value(key, "LID").map(|value| value.show());
    out.push(line(
        "user_device_id",
        hive.source(key, Some("LID")),
        device,
        "device state: the device id of a user's profile, by which push notifications find this machine",
    ));
    out
}
