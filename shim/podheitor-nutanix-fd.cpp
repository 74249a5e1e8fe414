// The file daemon's side of the Nutanix plugin: constants, and nothing else.
//
// Bacula's metaplugin framework does the work and takes from here who we are, how the backend is
// called and which parameters exist. The framework is built from Bacula's own source and linked
// dynamically; no code of Bacula is in this file.
//
// The names and help texts below repeat the table of the backend (nutanix_backend/parameters.py),
// and a test compares the two.

#include "constants.h"

const char *PLUGIN_DESCRIPTION = "PodHeitor Nutanix AHV Plugin";

// --- how a FileSet and the catalog name us. bacula-fd finds a plugin only when the prefix is the
// stem of its file: podheitor-nutanix-fd.so.
const char *PLUGINPREFIX = "podheitor-nutanix:";
const char *PLUGINNAME = "podheitor-nutanix";
const char *PLUGINNAMESPACE = "@nutanix";

// The name of the job that the Director holds as the predecessor: what an incremental stands on.
const bool CUSTOMPREVJOBNAME = true;

// An Accurate job needs nothing special, but the backend is told. Without a callback every file of
// our namespace counts as still there, so the whole disks of the Full never look deleted.
const bool ACCURATEPLUGINPARAMETER = true;
checkFile_t checkFile = NULL;

#if FD_PLUGIN_INTERFACE_VERSION >= 23  // Bacula 15
const bool DONOTSAVE_FT_PLUGIN_CONFIG = false;  // the restore options below are offered in bconsole
#endif

// --- restore options, as bconsole shows them: name, reader, help, required, default shown.
// The framework can hand on what these three readers take: str, int64 and bool.
struct ini_items plugin_items_dump[] = {
   {"restore_to", ini_store_str, "a new VM (ahv), the VM's own disks (inplace), raw images (disk), files in a running guest (guest), or only a proof (verify)", 0, "*by where*"},
   {"restore_vm_name", ini_store_str, "name of the restored VM", 0, "*old name and job*"},
   {"restore_powerstate", ini_store_str, "state of the restored VM", 0, "off"},
   {"disk", ini_store_str, "restore only these disks, by number", 0, "*all*"},
   {"disk_path", ini_store_str, "file or block device that receives the one disk restored; number:path,... for several", 0, "*none*"},
   {"overwrite", ini_store_bool, "replace existing files and devices with content", 0, "no"},
   {"prism", ini_store_str, "address of Prism Central, host or host:port", 0, "*of the backup*"},
   {"user", ini_store_str, "Prism user", 0, "*of the backup*"},
   {"password_file", ini_store_str, "file whose first line is the password", 0, "*of the backup*"},
   {"config_file", ini_store_str, "file of name=value lines; the plugin line wins", 0, "*of the backup*"},
   {"ca", ini_store_str, "PEM file of the authority that signed Prism's certificate", 0, "*of the backup*"},
   {"fingerprint", ini_store_str, "SHA-256 fingerprint of Prism's certificate, to pin it", 0, "*of the backup*"},
   {"prism_insecure", ini_store_bool, "do not verify Prism's certificate", 0, "no"},
   {"timeout", ini_store_int64, "longest wait for one answer of Prism", 0, "30"},
   {"debug", ini_store_bool, "log every step", 0, "no"},
   {"restore_via", ini_store_str, "disks of a VM go over iSCSI into a volume group, or as images, or the first that works", 0, "auto"},
   {"restore_identity", ini_store_str, "BIOS UUID and MAC addresses: old ones if the source is gone (auto), in any case, or new", 0, "auto"},
   {"target_cluster", ini_store_str, "cluster that receives the VM, when not the old one", 0, "*of the backup*"},
   {"target_config_file", ini_store_str, "file like config_file: the Prism that receives the VM, when not the one of the backup", 0, "*of the backup*"},
   {"network_map", ini_store_str, "source:subnet,... where source is a network, VLAN id or MAC address, or * for all others", 0, "*same subnets*"},
   {"storage_container", ini_store_str, "storage container of the restored VM", 0, "*Prism chooses*"},
   {"verify", ini_store_bool, "read back what was written, and compare", 0, "no"},
   {"layout", ini_store_str, "layout of the deltas in the backup of another maker's plugin", 0, "little-header64-region64-magic8"},
   {"restore_drill", ini_store_bool, "make the VM without network, start it, see whether it lives, remove it", 0, "no"},
   {"drill_sign", ini_store_str, "what the VM has to show: its guest tools answer, a line on its serial console, an open port, or at least that it stays on", 0, "on"},
   {"drill_wait", ini_store_int64, "how long the VM may take to show it, and how long it has to stay on", 0, "300"},
   {"check_space", ini_store_bool, "refuse a restore for which there is too little space", 0, "yes"},
   {"file", ini_store_str, "restore only these files: paths or patterns, with commas between them", 0, "*none*"},
   {"key_file", ini_store_str, "file with the passphrase or key of encrypted volumes, for file", 0, "*none*"},
   {NULL, NULL, NULL, 0, NULL},
};

// --- every parameter that the Plugin line may have; what is not here ends a job "with warnings".
const char *valid_params[] = {
   // connection
   "prism", "user", "password", "password_file", "api_key", "config_file", "ca", "fingerprint",
   "prism_insecure", "timeout",
   // where we run
   "proxy_mode", "dsip", "transport", "data_path", "chap", "state_dir", "metrics_dir",
   // what
   "vm", "exclude_vm", "category", "exclude_category", "project", "exclude_disk", "cluster",
   "consistency", "backup_type", "volume_groups", "parallel_vms", "lock_wait",
   // chain
   "fallback_to_full", "references", "scrub", "full_format",
   // replication
   "mode", "replicate_to", "replicate_limit", "replicate_parallel", "replicate_rpo",
   "replicate_protected",
   // restore
   "restore_to", "restore_via", "disk", "disk_path", "file", "key_file", "guest_vm", "guest_user",
   "guest_password_file", "target_cluster", "target_config_file",
   "restore_vm_name", "restore_volume_group", "restore_identity", "network_map", "storage_container",
   "overwrite", "verify", "check_space", "layout", "restore_powerstate", "restore_start",
   // drill
   "restore_drill", "drill_sign", "drill_wait", "drill_console", "drill_line", "drill_subnet",
   "drill_port",
   // what every metaplugin has
   "listing", "query", "coverage_days", "abort_on_error", "debug",
   NULL,
};
