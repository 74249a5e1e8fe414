// What all our plugins tell the metaplugin framework alike. Each plugin is one source file that
// includes this once.

#ifndef PODHEITOR_CONSTANTS_H
#define PODHEITOR_CONSTANTS_H

#include "pluginlib/pluginlib.h"
#include "pluginlib/metaplugin.h"

// --- who we are (`status client`, plugin list). bacula-fd loads no plugin that says otherwise here.
const char *PLUGIN_LICENSE = "AGPLv3";
const char *PLUGIN_AUTHOR = "PodHeitor";
const char *PLUGIN_DATE = "November 2026";
const char *PLUGIN_VERSION = "0.1.0";
const bool CUSTOMNAMESPACE = true;

// --- the backend: its file below the daemon's plugin program folder, and the protocol it speaks
const char *BACKEND_CMD = "podheitor-nutanix-backend";
const char *PLUGINAPI = "3";
const int32_t CUSTOMCANCELSLEEP = 0;  // 5 s; then the daemon waits for the backend to clean up

// A restore to a folder is the backend's work too: it merges the deltas into whole images.
const bool CORELOCALRESTORE = false;

const metadataTypeMap plugin_metadata_map[] = {{NULL, plugin_meta_invalid}};

#if FD_PLUGIN_INTERFACE_VERSION >= 23  // Bacula 15
const int ADDINCLUDESTRIPOPTION = 0;
const uint32_t BACKEND_TIMEOUT = 0;  // the framework's own, one hour of silence
#endif

#endif
