// The file daemon's side of a restore from a sibling's backup: constants, and nothing else.
//
// A backup belongs to the plugin that made it: only a plugin of the same name gets its files. So on
// a host that restores to Nutanix what podheitor-proxmox, -vsphere or -hyperv saved elsewhere, a
// plugin of that name starts our backend. It cannot back up; never install it beside the sibling's
// own plugin. SIBLING and SIBLING_TITLE come from CMakeLists.txt.

#include "constants.h"

const char *PLUGIN_DESCRIPTION = "PodHeitor restores of " SIBLING_TITLE " backups to Nutanix AHV";
const char *PLUGINPREFIX = "podheitor-" SIBLING ":";
const char *PLUGINNAME = "podheitor-" SIBLING;
const char *PLUGINNAMESPACE = "@" SIBLING;

const bool CUSTOMPREVJOBNAME = false;
const bool ACCURATEPLUGINPARAMETER = false;
checkFile_t checkFile = NULL;

// The Plugin line and the restore options that the Director keeps are those of the sibling. All are
// let pass unread (every text begins with an empty one), and the backend looks at none of them: it
// is told what to do by /etc/podheitor-nutanix/adapter.conf.
#if FD_PLUGIN_INTERFACE_VERSION >= 23  // Bacula 15
const bool DONOTSAVE_FT_PLUGIN_CONFIG = true;
#endif
struct ini_items plugin_items_dump[] = {{NULL, NULL, NULL, 0, NULL}};
const char *valid_params[] = {"", NULL};
