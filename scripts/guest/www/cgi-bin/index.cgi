#!/bin/sh
# The answer to GET /: a boot id that changes with every start of this kernel, the host name and the seconds since then.
read -r boot_id </proc/sys/kernel/random/boot_id
read -r name </proc/sys/kernel/hostname
read -r uptime _ </proc/uptime
printf 'Content-Type: application/json\r\n\r\n{"boot_id": "%s", "hostname": "%s", "uptime": %s}\n' "$boot_id" "$name" "$uptime"
