"""A VM with every setting that a restore brings back, for the SDK and for our client.

The two are compared on the wire. The half for the SDK runs where only the SDK is.
"""

from __future__ import annotations

PLAIN = {
    "hardware_clock_timezone": "Europe/Vienna",
    "is_cpu_passthrough_enabled": True,
    "is_vcpu_hard_pinning_enabled": True,
    "is_vga_console_enabled": False,
    "is_branding_enabled": False,
    "is_agent_vm": False,
    "is_cpu_hotplug_enabled": True,
    "is_memory_overcommit_enabled": True,
    "num_numa_nodes": 2,
}
SETTINGS = {
    "hardwareClockTimezone": "Europe/Vienna",
    "isCpuPassthroughEnabled": True,
    "isVcpuHardPinningEnabled": True,
    "isVgaConsoleEnabled": False,
    "isBrandingEnabled": False,
    "isAgentVm": False,
    "isCpuHotplugEnabled": True,
    "isMemoryOvercommitEnabled": True,
    "numNumaNodes": 2,
    "storageConfig": {"isFlashModeEnabled": True, "qosConfig": {"throttledIops": 300}},
    "vtpmConfig": {"isVtpmEnabled": True},
    "serialPorts": [{"index": 0, "isConnected": True}],
    "gpus": [{"mode": "PASSTHROUGH_COMPUTE", "deviceId": 4318, "vendor": "NVIDIA"}],
    "cdRoms": [{"diskAddress": {"busType": "SATA", "index": 3}}],
}
CARD = {
    "model": "E1000",
    "numQueues": 4,
    "vlanMode": "TRUNK",
    "trunkedVlans": [10, 20],
    "shouldAllowUnknownMacs": True,
    "ipv4Config": {"shouldAssignIp": True, "ipAddress": {"value": "10.0.0.7", "prefixLength": 32}},
}


def of_sdk(sdk, about):
    """Return the VM as a model of the SDK."""
    ahv = "vmm.v4.ahv.config"

    def model(kind, **fields):
        return sdk.model("vmm", f"{ahv}.{kind}", **fields)

    address = sdk.model("vmm", "common.v1.config.IPv4Address", value="10.0.0.7", prefix_length=32)
    nic = model(
        "Nic",
        backing_info=model("EmulatedNic", is_connected=True, model="E1000", num_queues=4),
        network_info=model(
            "NicNetworkInfo",
            nic_type="NORMAL_NIC",
            subnet=model("SubnetReference", ext_id=about["subnet"]),
            vlan_mode="TRUNK",
            trunked_vlans=[10, 20],
            should_allow_unknown_macs=True,
            ipv4_config=model("Ipv4Config", should_assign_ip=True, ip_address=address),
        ),
    )
    storage = model(
        "ADSFVmStorageConfig",
        is_flash_mode_enabled=True,
        qos_config=model("QosConfig", throttled_iops=300),
    )
    return model(
        "Vm",
        name="full",
        cluster=model("ClusterReference", ext_id=about["cluster"]),
        num_sockets=1,
        num_cores_per_socket=1,
        num_threads_per_core=1,
        memory_size_bytes=1 << 30,
        machine_type="Q35",
        boot_config=model("UefiBoot", is_secure_boot_enabled=False),
        storage_config=storage,
        vtpm_config=model("VtpmConfig", is_vtpm_enabled=True),
        serial_ports=[model("SerialPort", index=0, is_connected=True)],
        gpus=[model("Gpu", mode="PASSTHROUGH_COMPUTE", device_id=4318, vendor="NVIDIA")],
        cd_roms=[
            model("CdRom", disk_address=model("CdRomAddress", bus_type="SATA", index=3)),
        ],
        nics=[nic],
        **PLAIN,
    )
