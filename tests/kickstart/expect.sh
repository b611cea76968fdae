# shellcheck shell=bash
# What each installation script finds, and what must be true after it: sourced by scene. main_NAME is the installation as it should go,
# refusals_NAME what the script must refuse.
# shellcheck disable=SC2154,SC2016  # R, REPO, SYSTEM, STATUS, LOOPS are scene's; stubs get their text unexpanded
set -euo pipefail

ADDRESS=0000:03:00.0
LINK=pci-$ADDRESS-scsi-0:0:0:0

# world: accounts, the system disk, and the folders that both systems have.
world() {
  printf '%s\n' root:x:0:0:root:/root:/bin/bash hotadd-admin:x:1000:100::/home/hotadd-admin:/bin/bash sshd:x:105:65534::/run/sshd:/usr/sbin/nologin \
    _chrony:x:106:106::/:/bin/false >"$R/etc/passwd"
  printf '%s\n' root:x:0: shadow:x:42: users:x:100: _chrony:x:106: >"$R/etc/group"
  printf '%s\n' 'root:$6$hash:19000::::::' 'hotadd-admin:!!:19000::::::' sshd:!:19000:::::: >"$R/etc/shadow"
  printf '127.0.0.1 localhost\n' >"$R/etc/hosts"
  mkdir -p "$R/home/hotadd-admin" "$R/var/log" "$R/var/lib/hotadd" "$R/etc/systemd/system" "$R/etc/udev/rules.d"
  if [[ $SYSTEM == sles15 ]]; then mkdir -p "$R/usr/share/YaST2"; fi
  ln -sf bash "$R/bin/sh"
  sysfs "pci0000:00/0000:00:15.0/$ADDRESS/host2/target2:0:0/2:0:0:0"
  # What the agent's package brings.
  mkdir -p "$R/usr/lib/udev/rules.d" "$R/usr/lib/systemd/system"
  cp "$REPO"/systemd/*.rules "$R/usr/lib/udev/rules.d/"
  cp "$REPO/systemd/hotadd-agent.service" "$R/usr/lib/systemd/system/"
}
# sysfs PATH: sda is there.
sysfs() {
  rm -rf "$R/sys/block" "$R/sys/devices"
  mkdir -p "$R/sys/block" "$R/sys/devices/$1/block/sda" "$R/sys/block/sr0" "$R/sys/block/loop0"
  ln -s "../devices/$1/block/sda" "$R/sys/block/sda"
  blocks 4M
}
# blocks SIZE: sda has that size, and zeros in it; the kernel's file counts 512 bytes.
blocks() {
  rm -f "$R/dev/sda"; truncate -s "$1" "$R/dev/sda"
  printf '%s\n' "$(($(stat -c %s "$R/dev/sda") / 512))" >"$R/sys/block/sda/size"
}
# medium_copy: what script media leaves, unless it has just run.
medium_copy() { [[ -d $R/root/hotadd-media ]] || { mkdir -m 0700 "$R/root/hotadd-media"; : >"$R/root/hotadd-media/steps"; }; }

# --- guard
cmdline() { printf '%s\n' "$1" >"$R/tmp/cmdline"; mount --bind "$R/tmp/cmdline" "$R/proc/cmdline"; }
main_guard() {
  cmdline 'BOOT_IMAGE=vmlinuz quiet'
  blocks 4M
  passes
}
# YaST would go on: there the script must not end, which the stub of sleep ends for it.
stopped() {
  no_calls
  if [[ $SYSTEM == sles15 ]]; then
    stub /stub/sleep 3600 '(($(grep -c . /calls) < 3)) || kill -KILL $PPID'
    refuses "$1" "$2"
    equal "$1: how it ended under YaST" "$STATUS" 137
    equal "$1: held" "$(calls)" $'sleep 3600\nsleep 3600\nsleep 3600'
  else
    refuses "$1" "$2"
  fi
}
# byte AT: one byte of sda is written.
byte() { printf x | dd of="$R/dev/sda" bs=1 seek="$1" conv=notrunc status=none; }
refusals_guard() {
  local other at
  for other in sdb nvme0n1 vda; do
    mkdir "$R/sys/block/$other"
    stopped "a second disk $other" 'NOT INSTALLED.*must have one disk, sda'
    rmdir "$R/sys/block/$other"
  done
  # The first MiB; between; the last MiB of a disk that ends within one, where the backup of a table lies, and its very last byte.
  local size=$((250 * 1048576 + 512))
  for at in 1048575 $((3 * 64 * 1048576)) $((size - 1048576)) $((size - 1)); do
    blocks "$size"; byte "$at"
    stopped "a disk with something on it at $at" 'NOT INSTALLED.*sda is not blank'
  done
  cmdline 'quiet hotadd.wipe=sdaa'
  stopped "another word on the command line" 'sda is not blank'
  cmdline 'quiet hotadd.wipe=sda console=tty0'
  passes
  mkdir "$R/sys/block/sdb"
  stopped "a second disk, although sda may be wiped" 'must have one disk'
  rmdir "$R/sys/block/sdb"
  cmdline quiet
  mkdir -p "$R/stub"; printf '#!/bin/bash\n[[ $* != *skip=67108864* ]] && exec /bin/dd "$@"\n' >"$R/stub/dd"; chmod +x "$R/stub/dd"
  blocks "$size"
  stopped "a disk with a place that can't be read" "NOT INSTALLED.*sda can't be read"
  if [[ $SYSTEM == el8 ]]; then
    no_calls; stub /stub/dd '"if=/dev/sda "*' ''
    echo $((1 << 28)) >"$R/sys/block/sda/size"
    passes
    equal "places read of a large disk" "$(calls | wc -l)" 1025
  fi
  rm "$R/stub/dd" "$R/dev/sda"
  stopped "a disk that can't be read" "sda can't be read"
  rm "$R/sys/block/sda"
  stopped "no disk at all" 'it has: none'
}

# --- media
fill_medium() {
  mkdir -p "$1/hotadd/site/hotadd" "$1/hotadd/kernel" "$1/hotadd/repo/repodata"
  ssh-keygen -q -t ed25519 -N '' -C admin -f "$WORK/key" <<<y >/dev/null
  cp "$WORK/key.pub" "$1/hotadd/site/authorized_keys"
  printf '# ours\n\nntp1.example.org\n192.0.2.7\n' >"$1/hotadd/site/ntp-servers"
  printf 'listen = "0.0.0.0:7443"\n' >"$1/hotadd/site/hotadd/agent.toml"
  printf 'secret\n' >"$1/hotadd/site/hotadd/vcenter-password"
  : >"$1/hotadd/kernel/kernel-ml-core-6.6.1-1.el8.elrepo.x86_64.rpm"
  : >"$1/hotadd/kernel/kernel-ml-modules-6.6.1-1.el8.elrepo.x86_64.rpm"
  chmod -R 0777 "$1/hotadd"
}
copied() { (cd "$1/root/hotadd-media" && find . -printf '%y %m %P\n' | sort); }
COPY='d 700 
d 700 kernel
d 700 site
d 700 site/hotadd
f 600 kernel/kernel-ml-core-6.6.1-1.el8.elrepo.x86_64.rpm
f 600 kernel/kernel-ml-modules-6.6.1-1.el8.elrepo.x86_64.rpm
f 600 site/authorized_keys
f 600 site/hotadd/agent.toml
f 600 site/hotadd/vcenter-password
f 600 site/ntp-servers
f 600 steps'
main_media() {
  local target=$R/mnt
  no_calls
  if [[ $SYSTEM == el8 ]]; then
    target=$R/mnt/sysimage
    fill_medium "$R/run/install/repo"
  else
    fill_medium "$R/medium"
    mkdir -p "$R/medium2/boot"
    : >"$R/dev/sr0"; : >"$R/dev/sr1"; : >"$R/dev/sr2"
    stub /stub/mount '"-o ro /dev/sr"[012]" /run/hotadd-medium-sr"[012] | "-t tmpfs -o mode=0700 tmpfs /mnt/root/hotadd-media"' \
      'if [[ $1 == -t ]]; then exec /bin/mount "$@"; fi; case $3 in *0) exit 32 ;; *1) cp -r /medium2/. "$4" ;; *2) cp -r /medium/. "$4" ;; esac'
    stub /stub/umount /run/hotadd-medium-sr1 'rm -r "$1"/*'
  fi
  mkdir -p "$target/root"
  passes
  equal "the copy of the medium" "$(copied "$target")" "$COPY"
  equal "where the copy lies" "$(stat -f -c %T "$target/root/hotadd-media")" tmpfs
  if [[ $SYSTEM == sles15 ]]; then
    equal "mounts" "$(calls)" $'mount -o ro /dev/sr0 /run/hotadd-medium-sr0\nmount -o ro /dev/sr1 /run/hotadd-medium-sr1\numount /run/hotadd-medium-sr1\nmount -o ro /dev/sr2 /run/hotadd-medium-sr2\nmount -t tmpfs -o mode=0700 tmpfs /mnt/root/hotadd-media'
  fi
  # The later scripts run in the new system, which here is the same root.
  rm -rf "$R/root/hotadd-media"; cp -a "$target/root/hotadd-media" "$R/root/"
}
refusals_media() {
  if [[ $SYSTEM == el8 ]]; then umount "$R/mnt/sysimage/root/hotadd-media"; else umount "$R/mnt/root/hotadd-media"; fi
  if [[ $SYSTEM == el8 ]]; then
    rm -rf "$R/run/install/repo/hotadd"
    passes
    equal "without a folder on the medium" "$(copied "$R/mnt/sysimage")" $'d 700 \nf 600 steps'
  else
    rm -rf "$R/medium/hotadd" "$R"/run/hotadd-medium-*
    stub /stub/umount '/run/hotadd-medium-sr'[12]
    refuses "drives without our medium" 'no medium with a folder hotadd'
  fi
}

# --- own-disks
rules() { grep -v '^#' "$R/etc/udev/rules.d/00-hotadd-own-disks.rules"; }
# own DEVPATH: would udev take this device for our own?
own() { local pattern; pattern=$(rules | sed -n 's/^DEVPATH=="\([^"]*\)", ENV{HOTADD_OWN}="1"$/\1/p'); [[ -n $pattern ]] || die "no rule"; # shellcheck disable=SC2053  # a pattern, as in udev
  [[ $1 == $pattern ]]; }
main_own_disks() {
  medium_copy
  passes
  equal "the rules" "$(rules)" "$(grep -v '^#' "$REPO/systemd/00-hotadd-own-disks.rules.example")"
}
refusals_own_disks() {
  local root=/devices/pci0000:00/0000:00:16.0/0000:0b:00.0/host3/target3:0
  sysfs pci0000:00/0000:00:16.0/0000:0b:00.0/host0/target0:0:1/0:0:1:0
  passes
  want "a partition of the system disk is own, whatever the host's number" own "$root:1/3:0:1:0/block/sdc/sdc2"
  want_not "target 11 is not own" own "$root:11/3:0:11:0/block/sdc"
  want_not "target 0 is not own" own "$root:0/3:0:0:0/block/sda"
  want_not "another controller's target is not own" own "/devices/pci0000:00/0000:00:15.0/$ADDRESS/host0/target0:0:1/0:0:1:0/block/sda"
  rm "$R/root/hotadd-media/steps"
  refuses "a copy that is mounted elsewhere" 'does not see the copy'
  : >"$R/root/hotadd-media/steps"
  sysfs pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0
  refuses "a SATA disk" 'no disk of a SCSI controller'
  sysfs pci0000:00/0000:00:05.0/virtio1
  refuses "a disk without address" 'no disk of a SCSI controller'
}

# --- hands-off: real LVM on real block devices. sdb is a copy of sda bit by bit, as the disk of a proxy made from one template is; sdc is
# the disk of another proxy: a volume group of the same name, and of another UUID.
disk() {
  local loop
  loop=$(losetup -f --show "$2"); LOOPS+=("$loop")
  mknod "$R/dev/$1" b "$(stat -c %Hr "$loop")" "$(stat -c %Lr "$loop")"
}
volume_group() {
  truncate -s 16M "$WORK/own.img"
  disk sda3 "$WORK/own.img"
  want "a volume group on sda3" inside vgcreate --config 'devices { global_filter = [ "a|.*|" ] }' "$1" /dev/sda3
  cp "$WORK/own.img" "$WORK/twin.img"
  disk sdb3 "$WORK/twin.img"
  truncate -s 16M "$WORK/sister.img"
  disk sdc3 "$WORK/sister.img"
  want "a volume group of that name on sdc3" inside vgcreate --config 'devices { global_filter = [ "a|/dev/sdc3|", "r|.*|" ] }' "$1" /dev/sdc3
}
seen_by_all() { local all; all=$(inside vgs --noheadings -o vg_name,vg_uuid --config 'devices { global_filter = [ "a|.*|" ] }' 2>&1) || true; grep -q sdb3 <<<"$all" && (($(grep -cE '^ +vg_hotadd ' <<<"$all") == 2)); }
# seen: the devices in which LVM sees volumes.
seen() { local name; inside pvs --noheadings -o pv_name 2>/dev/null | while read -r name; do inside readlink -f "$name"; done; }
main_hands_off() {
  medium_copy
  local unit
  truncate -s 4M "$R/dev/sda"; : >"$R/dev/sdb"
  mkdir -p "$R/dev/disk/by-path"
  ln -s ../../sda "$R/dev/disk/by-path/$LINK"; ln -s ../../sda3 "$R/dev/disk/by-path/$LINK-part3"
  ln -s ../../sdb "$R/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0"; ln -s ../../sdb3 "$R/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0-part3"
  ln -s ../../sdc3 "$R/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:2:0-part3"
  volume_group vg_hotadd
  want "before, LVM sees the twin and two groups of one name" seen_by_all
  passes
  equal "lvmconfig --validate" "$(inside lvmconfig --validate 2>&1 | grep -v sysfs | xargs)" "LVM configuration valid."
  equal "volumes that LVM sees" "$(seen)" /dev/sda3
  equal "volume groups that LVM sees" "$(inside vgs --noheadings -o vg_name 2>/dev/null | xargs)" vg_hotadd
  equal "auto_activation_volume_list" "$(inside lvmconfig activation/auto_activation_volume_list 2>/dev/null)" 'auto_activation_volume_list="vg_hotadd"'
  # The twin alone, as after a reboot in which letters changed: sda3 is now the foreign disk.
  ln -sf ../../sdb3 "$R/dev/disk/by-path/$LINK-part3"; ln -sf ../../sda3 "$R/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0-part3"
  equal "volumes after letters changed" "$(seen)" /dev/sdb3
  equal "what multipath says of its configuration" "$(inside multipath -t 2>&1 | grep -E 'line [0-9]+|invalid' || true)" ''
  want "multipath takes no device" grep -qE '^\s*devnode "\.\*"' <(inside multipath -t 2>/dev/null | sed -n '/^blacklist {/,/^}/p')
  equal "mdadm.conf" "$(grep -v '^#' "$R/etc/mdadm.conf")" "AUTO -all"
  for unit in multipathd.service multipathd.socket mdmonitor.service udisks2.service; do
    equal "$unit" "$(readlink "$R/etc/systemd/system/$unit")" /dev/null
  done
}
refusals_hands_off() {
  rm "$R/dev/disk/by-path/$LINK"
  refuses "a system disk without a place" 'no link in /dev/disk/by-path'
  # A link that is there, but not that of the disk with the volume group: the next boot would not find its root.
  ln -s ../../sda "$R/dev/disk/by-path/pci-0000:0b:00.0-scsi-0:0:0:0"
  refuses "a filter that hides the system disk" 'behind the filter LVM sees'
}

# --- time
main_time() {
  medium_copy
  mkdir -p "$R/root/hotadd-media/site"
  printf '# ours\n\nntp1.example.org\n192.0.2.7\n' >"$R/root/hotadd-media/site/ntp-servers"
  printf 'pool 2.pool.example.org iburst\ndriftfile /var/lib/chrony/drift\n' >"$R/etc/chrony.conf"
  passes
  want "chronyd takes it" inside chronyd -p -f /etc/chrony.conf
  equal "sources" "$(sources)" $'server ntp1.example.org iburst\nserver 192.0.2.7 iburst'
}
sources() { inside chronyd -p -f /etc/chrony.conf | grep -E '^(server|pool|peer|sourcedir|include|confdir)'; }
refusals_time() {
  rm "$R/root/hotadd-media/site/ntp-servers"
  printf 'pool 2.pool.example.org iburst\nsourcedir /run/chrony-dhcp\ninclude /etc/chrony.d/*.conf\n' >"$R/etc/chrony.conf"
  passes
  equal "sources without a list" "$(sources)" 'sourcedir /run/chrony-dhcp'
  printf 'a b\n' >"$R/root/hotadd-media/site/ntp-servers"
  refuses "a server with options" 'not a name or address'
}

# --- access
main_access() {
  medium_copy
  mkdir -p "$R/root/hotadd-media/site" "$R/run/sshd"
  if [[ ! -e $R/root/hotadd-media/site/authorized_keys ]]; then
    ssh-keygen -q -t ed25519 -N '' -C admin -f "$WORK/key"
    cp "$WORK/key.pub" "$R/root/hotadd-media/site/authorized_keys"
  fi
  # As EL 8 and SLES 15 have it, and worse.
  printf '%s\n' 'PermitRootLogin yes' 'PasswordAuthentication yes' 'ChallengeResponseAuthentication yes' 'UsePAM yes' 'X11Forwarding yes' \
    'Subsystem sftp /usr/lib/openssh/sftp-server' 'Match Address 192.0.2.0/24' '  PermitTTY no' >"$R/etc/ssh/sshd_config"
  passes
  cp "$WORK/key" "$R/etc/ssh/ssh_host_ed25519_key"; chmod 0600 "$R/etc/ssh/ssh_host_ed25519_key"
  want "sshd -t" inside /usr/sbin/sshd -t -h /etc/ssh/ssh_host_ed25519_key
  equal "what sshd allows" "$(inside /usr/sbin/sshd -T -h /etc/ssh/ssh_host_ed25519_key -C user=root,host=h,addr=192.0.2.9 |
    grep -E '^(permitrootlogin|passwordauthentication|kbdinteractiveauthentication|permitemptypasswords|pubkeyauthentication|allowusers|permittty) ' | sort)" \
    $'allowusers hotadd-admin\nkbdinteractiveauthentication no\npasswordauthentication no\npermitemptypasswords no\npermitrootlogin no\npermittty no\npubkeyauthentication yes'
  want "visudo -c" inside visudo -c -f /etc/sudoers.d/hotadd-admin
  equal "mode of the sudoers file" "$(stat -c %a "$R/etc/sudoers.d/hotadd-admin")" 440
  equal "accounts with a usable password" "$(awk -F: '$2 !~ /^[!*]/ {print $1}' "$R/etc/shadow")" ''
  equal "the key" "$(cat "$R/home/hotadd-admin/.ssh/authorized_keys")" "$(cat "$R/root/hotadd-media/site/authorized_keys")"
  equal "owner and modes" "$(cd "$R/home/hotadd-admin" && stat -c '%u:%g %a' .ssh .ssh/authorized_keys)" $'1000:100 700\n1000:100 600'
}
refusals_access() {
  cp "$WORK/key" "$R/root/hotadd-media/site/authorized_keys"
  refuses "a private key" 'must hold public keys'
  echo 'no key' >"$R/root/hotadd-media/site/authorized_keys"
  refuses "a file without keys" 'must hold public keys'
  rm -r "$R/root/hotadd-media/site" "$R/home/hotadd-admin/.ssh"
  passes
  want_not "nobody's keys" test -e "$R/home/hotadd-admin/.ssh"
}

# --- firewall
# zone: what the firewall's own tool reads of the zone.
zone() { inside firewall-offline-cmd --zone=public --list-all | sed -nE 's/^ +(ports|services|protocols|rich rules|forward-ports|sources): /\1: /p' | sed 's/ *$//' | grep -v ':$' | sort; }
zone_of() { if [[ -s $R/home/hotadd-admin/.ssh/authorized_keys ]]; then printf 'ports: 7443/tcp\nservices: ssh\n'; else printf 'ports: 7443/tcp\n'; fi; }
main_firewall() {
  no_calls
  # In a chroot systemctl ignores this by itself; there is no systemd to ask here.
  stub /stub/systemctl '"try-reload-or-restart firewalld.service"'
  want "before, the zone opens more" grep -q 'service name="ssh"' "$R/usr/lib/firewalld/zones/public.xml"
  passes
  rm "$R/stub/systemctl"
  equal "what the zone opens" "$(zone)" "$(zone_of)"
  want "firewall-offline-cmd --check-config" inside firewall-offline-cmd --check-config
  equal "default zone" "$(inside firewall-offline-cmd --get-default-zone)" public
  equal "reloaded" "$(calls)" 'systemctl try-reload-or-restart firewalld.service'
}
refusals_firewall() {
  mkdir -p "$R/home/hotadd-admin/.ssh"; echo key >"$R/home/hotadd-admin/.ssh/authorized_keys"
  stub /stub/systemctl '"try-reload-or-restart firewalld.service"'
  # A zone that somebody made the default before.
  inside firewall-offline-cmd --set-default-zone=trusted >/dev/null
  passes
  equal "what the zone opens where somebody has a key" "$(zone)" $'ports: 7443/tcp\nservices: ssh'
  equal "default zone afterwards" "$(inside firewall-offline-cmd --get-default-zone)" public
}

# --- kernel
main_kernel() {
  medium_copy
  local folder=/root/hotadd-media/kernel
  no_calls
  mkdir -p "$R$folder"
  : >"$R$folder/kernel-ml-core-6.6.1-1.el8.elrepo.x86_64.rpm"; : >"$R$folder/kernel-ml-modules-6.6.1-1.el8.elrepo.x86_64.rpm"
  stub /stub/rpm "'--install --oldpackage $folder/kernel-ml-core-6.6.1-1.el8.elrepo.x86_64.rpm $folder/kernel-ml-modules-6.6.1-1.el8.elrepo.x86_64.rpm'" ''
  sed -i "s|^esac|esac|; s|^  \*)|  '--query --package --queryformat %{VERSION}-%{RELEASE}.%{ARCH} $folder/kernel-ml-core-6.6.1-1.el8.elrepo.x86_64.rpm') printf 6.6.1-1.el8.elrepo.x86_64 ;;\n  *)|" "$R/stub/rpm"
  stub /stub/grubby "'--set-default /boot/vmlinuz-6.6.1-1.el8.elrepo.x86_64'"
  passes
  equal "calls" "$(calls | cut -d' ' -f1,2)" $'rpm --install\nrpm --query\ngrubby --set-default'
}
refusals_kernel() {
  : >"$R/root/hotadd-media/kernel/kernel-ml-core-6.7.0-1.el8.elrepo.x86_64.rpm"
  refuses "two kernels" 'must hold one kernel-ml-core'
  rm -r "$R/root/hotadd-media/kernel"; no_calls
  passes
  equal "calls without a kernel" "$(calls)" ''
}

# --- initrd: real dracut and lsinitrd, without kernel modules.
KERNEL=4.18.0-240.el8.x86_64
image() { if [[ $SYSTEM == el8 ]]; then echo "/boot/initramfs-$KERNEL.img"; else echo "/boot/initrd-$KERNEL"; fi; }
main_initrd() {
  medium_copy
  mkdir -p "$R/lib/modules/$KERNEL" "$R/etc/dracut.conf.d"
  [[ -e $R/etc/udev/rules.d/00-hotadd-own-disks.rules ]] || cp "$REPO/systemd/00-hotadd-own-disks.rules.example" "$R/etc/udev/rules.d/00-hotadd-own-disks.rules"
  [[ -s $R/root/hotadd-media/steps ]] || echo 'devices {}' >"$R/etc/lvm/lvmlocal.conf"
  : >"$R/boot/vmlinuz-0-rescue-0123"; : >"$R/boot/initramfs-0-rescue-0123.img"
  mkdir -p "$R/boot/loader/entries"; : >"$R/boot/loader/entries/0123-0-rescue.conf"
  printf '%s\n' no_kernel=yes hostonly=no compress=cat dracutmodules=base do_strip=no do_hardlink=no early_microcode=no nofscks=yes >"$R/etc/dracut.conf.d/99-test.conf"
  # Debian's has another name for its images.
  stub /stub/dracut '"--force --regenerate-all"' "/usr/bin/dracut --quiet --force $(image) $KERNEL"
  passes
  local list item
  list=$(inside lsinitrd "$(image)" 2>/dev/null)
  for item in usr/lib/udev/rules.d/{00-hotadd-quarantine,60-hotadd-readonly}.rules etc/udev/rules.d/00-hotadd-own-disks.rules etc/lvm/lvmlocal.conf sbin/blockdev; do
    want "$item is in the image" grep -q " $item\$" <<<"$list"
  done
  equal "modules left out" "$(dracut_conf; echo "${omit_dracutmodules-}" "${lvmconf-}" "${dracut_rescue_image-}")" ' multipath mdraid dmraid  yes no'
  equal "the filter in the image" "$(inside lsinitrd -f etc/lvm/lvmlocal.conf "$(image)" 2>/dev/null)" "$(cat "$R/etc/lvm/lvmlocal.conf")"
  equal "rescue images, which lack the rules" "$(find "$R/boot" -name '*-0-rescue*')" ''
}
# shellcheck source=/dev/null
dracut_conf() { . "$R/etc/dracut.conf.d/90-hotadd.conf"; }
refusals_initrd() {
  stub /stub/dracut '"--force --regenerate-all"' ''
  stub /stub/lsinitrd '"-f "*" /boot/init"*' ''
  refuses "an image without the rules" 'lacks usr/lib/udev/rules.d/00-hotadd-quarantine.rules'
  rm "$R"/boot/init*
  refuses "no image" 'dracut made no image'
  rm "$R/usr/lib/udev/rules.d/00-hotadd-quarantine.rules"
  refuses "a system without the agent" 'is hotadd-agent installed'
}

# --- console. grub.cfg of EL reads user.cfg beside it; that of SLES is made of /etc/grub.d. Hashes are made by the real tool.
HASH='grub\.pbkdf2\.sha512\.10000\.[0-9A-F]+\.[0-9A-F]+'
hashed() { inside /bin/sh -c 'printf "x\nx\n" | grub-mkpasswd-pbkdf2' | grep -oE "$HASH"; }
main_console() {
  medium_copy
  stub /stub/grub2-mkpasswd-pbkdf2 '""' /usr/bin/grub-mkpasswd-pbkdf2
  stub /stub/grub2-script-check /boot/grub2/grub.cfg '/usr/bin/grub-script-check "$@"'
  stub /stub/grub2-mkconfig '"-o /boot/grub2/grub.cfg"' 'for part in /etc/grub.d/*; do if [[ -x $part ]]; then "$part"; fi; done >/boot/grub2/grub.cfg'
  mkdir -p "$R/boot/grub2"
  if [[ $SYSTEM == el8 ]]; then main_console_el; else main_console_sles; fi
}
main_console_el() {
  local folder
  mkdir -p "$R/boot/efi/EFI/redhat" "$R/boot/efi/EFI/BOOT" "$R/boot/loader/entries"
  # shellcheck disable=SC2016  # GRUB's
  for folder in boot/grub2 boot/efi/EFI/redhat; do
    printf '%s\n' 'if [ -f ${prefix}/user.cfg ]; then' '  source ${prefix}/user.cfg' '  if [ -n "${GRUB2_PASSWORD}" ]; then' '    set superusers="root"' \
      '    export superusers' '    password_pbkdf2 root ${GRUB2_PASSWORD}' '  fi' 'fi' >"$R/$folder/grub.cfg"
  done
  echo 'configfile /grub.cfg' >"$R/boot/efi/EFI/BOOT/grub.cfg"
  printf '%s\n' 'title CentOS' 'grub_users $grub_users' 'grub_arg --unrestricted' >"$R/boot/loader/entries/0123-$KERNEL.conf"
  passes
  for folder in boot/grub2 boot/efi/EFI/redhat; do
    want "a hash beside grub.cfg in $folder" grep -qxE "GRUB2_PASSWORD=$HASH" "$R/$folder/user.cfg"
    equal "mode in $folder" "$(stat -c %a "$R/$folder/user.cfg")" 600
    want "GRUB reads it" inside grub-script-check "/$folder/user.cfg"
  done
  want_not "none where nothing reads it" test -e "$R/boot/efi/EFI/BOOT/user.cfg"
  cp "$R/boot/grub2/user.cfg" "$WORK/first"
  passes
  want_not "another machine has another password" cmp -s "$WORK/first" "$R/boot/grub2/user.cfg"
}
main_console_sles() {
  : >"$R/boot/grub2/grub.cfg"
  rm -f "$R"/etc/grub.d/*; mkdir -p "$R/etc/grub.d"
  printf '#!/bin/sh\necho "menuentry x { true }"\n' >"$R/etc/grub.d/10_linux"; chmod +x "$R/etc/grub.d/10_linux"
  passes
  equal "grub.cfg" "$(sed -E "s/$HASH/HASH/" "$R/boot/grub2/grub.cfg" | grep -v '^#')" \
    $'menuentry x { true }\nset superusers="root"\npassword_pbkdf2 root HASH\nexport superusers\nset unrestricted_menu="y"\nexport unrestricted_menu'
  # YaST reads the hash out of it; nobody else may.
  equal "mode" "$(stat -c %a "$R/etc/grub.d/42_password")" 700
}
refusals_console() {
  mkdir -p "$R/root/hotadd-media/site"
  hashed >"$R/root/hotadd-media/site/grub-password"
  no_calls
  passes
  if [[ $SYSTEM == el8 ]]; then equal "the site's own hash" "$(cat "$R/boot/grub2/user.cfg")" "GRUB2_PASSWORD=$(cat "$R/root/hotadd-media/site/grub-password")"
  else want "the site's own hash" grep -qF "$(cat "$R/root/hotadd-media/site/grub-password")" "$R/boot/grub2/grub.cfg"; fi
  want_not "no other is made" grep -q mkpasswd "$R/calls"
  echo secret >"$R/root/hotadd-media/site/grub-password"
  refuses "a password that is not hashed" 'not the output of grub2-mkpasswd-pbkdf2'
  rm "$R/root/hotadd-media/site/grub-password"
  mkdir -p "$R/etc/systemd/system/rescue.service.d"
  printf '[Service]\nEnvironment=SYSTEMD_SULOGIN_FORCE=1\n' >"$R/etc/systemd/system/rescue.service.d/x.conf"
  refuses "an emergency shell without a password" 'SYSTEMD_SULOGIN_FORCE is set'
  rm -r "$R/etc/systemd/system/rescue.service.d"
  stub /stub/grub2-mkconfig '"-o /boot/grub2/grub.cfg"' 'echo true >/boot/grub2/grub.cfg'
  if [[ $SYSTEM == el8 ]]; then
    rm "$R/boot/grub2/user.cfg"; sed -i /unrestricted/d "$R"/boot/loader/entries/*.conf
    refuses "an entry that would not start by itself" 'would ask for the password at each start'
    want_not "the password is not set then" test -e "$R/boot/grub2/user.cfg"
    rm "$R"/boot/loader/entries/*.conf
    refuses "a system without entries" 'no entries in /boot/loader/entries'
  else
    refuses "a grub.cfg without it" 'left the password out'
  fi
}

# --- agent
STEPS=(own-disks hands-off time access initrd console)
# in_memory: the copy of the medium lies where script media puts it.
in_memory() {
  local kept=$WORK/kept
  rm -rf "$kept"; cp -a "$R/root/hotadd-media" "$kept"
  mount -t tmpfs -o mode=0700 tmpfs "$R/root/hotadd-media"
  cp -a "$kept/." "$R/root/hotadd-media/"
}
wanted() { [[ -L $R/etc/systemd/system/multi-user.target.wants/hotadd-agent.service ]]; }
site() {
  medium_copy
  mkdir -p "$R/root/hotadd-media/site/hotadd"
  printf 'listen = "0.0.0.0:7443"\n' >"$R/root/hotadd-media/site/hotadd/agent.toml"
  printf 'secret\n' >"$R/root/hotadd-media/site/hotadd/vcenter-password"
  [[ ${1-} == keep ]] || printf '%s\n' "${STEPS[@]}" >"$R/root/hotadd-media/steps"
}
main_agent() {
  # In a whole installation the scripts before have noted their steps themselves.
  if [[ -e $R/root/hotadd-media/steps ]]; then site keep; else site; fi
  in_memory
  no_calls
  rm -f "$R/etc/motd" "$R/stub/mount" "$R/stub/umount"
  stub /usr/bin/hotadd-agent '"check-config --config /etc/hotadd/agent.toml"' 'test -s /etc/hotadd/vcenter-password'
  passes
  equal "calls" "$(calls)" 'hotadd-agent check-config --config /etc/hotadd/agent.toml'
  want "the agent is enabled" wanted
  equal "modes" "$(stat -c '%U %a %n' "$R/etc/hotadd"/* | sed "s|$R||")" $'root 600 /etc/hotadd/agent.toml\nroot 600 /etc/hotadd/vcenter-password'
  want_not "the copy of the medium is gone" test -e "$R/root/hotadd-media"
  want_not "nobody is told of a problem" test -e "$R/etc/motd"
}
refusals_agent() {
  local step
  rm "$R/etc/systemd/system/multi-user.target.wants/hotadd-agent.service"
  for step in "${STEPS[@]}"; do
    site; sed -i "/^$step\$/d" "$R/root/hotadd-media/steps"
    refuses "an installation without $step" "did not finish: $step"
    want_not "the agent is not enabled without $step" wanted
    want_not "the copy of the medium is gone" test -e "$R/root/hotadd-media"
  done
  site; in_memory; mkdir "$R/root/hotadd-media/site/hotadd/folder"
  refuses "a configuration with a folder in it" 'folder'
  want_not "the copy of the medium is gone, however early it ended" test -e "$R/root/hotadd-media"
  site
  stub /usr/bin/hotadd-agent '"check-config --config /etc/hotadd/agent.toml"' 'echo HA-CFG-001; exit 78'
  passes
  want_not "the agent is not enabled with a wrong configuration" wanted
  want "whoever logs in is told" grep -q 'not enabled: /etc/hotadd/agent.toml is missing or not complete' "$R/etc/motd"
  want "the log has the reason" grep -q HA-CFG-001 "$R/out"
  rm -r "$R/etc/hotadd"; site; rm -r "$R/root/hotadd-media/site"
  passes
  want_not "the agent is not enabled without a configuration" wanted
}

# --- labels. The contexts are those of the targeted policy, cut down.
main_labels() {
  local folder=$R/etc/selinux/targeted/contexts/files file
  mkdir -p "$folder" "$R/etc/hotadd" "$R/etc/firewalld/zones" "$R/etc/dracut.conf.d" "$R/etc/sudoers.d" "$R/home/hotadd-admin/.ssh" \
    "$R/boot/grub2"
  for file in etc/hotadd/agent.toml home/hotadd-admin/.ssh/authorized_keys etc/multipath.conf etc/mdadm.conf etc/chrony.conf usr/bin/hotadd-agent \
    etc/udev/rules.d/00-hotadd-own-disks.rules boot/grub2/user.cfg; do [[ -e $R/$file ]] || : >"$R/$file"; done
  printf 'SELINUX=enforcing\nSELINUXTYPE=targeted\n' >"$R/etc/selinux/config"
  printf '%s\tsystem_u:object_r:%s:s0\n' '/.*' default_t '/etc(/.*)?' etc_t '/etc/shadow' shadow_t '/etc/udev/rules\.d(/.*)?' udev_rules_t \
    '/etc/lvm(/.*)?' lvm_etc_t '/etc/systemd/system(/.*)?' systemd_unit_file_t '/etc/firewalld(/.*)?' firewalld_etc_rw_t '/usr/(.*/)?bin(/.*)?' bin_t \
    '/var/lib(/.*)?' var_lib_t '/boot(/.*)?' boot_t '/home/[^/]+(/.*)?' user_home_t '/home/[^/]+/\.ssh(/.*)?' ssh_home_t >"$folder/file_contexts"
  passes
  equal "labels" "$(inside getfattr -n security.selinux --absolute-names /usr/bin/hotadd-agent /etc/hotadd/agent.toml /var/lib/hotadd \
    /etc/udev/rules.d/00-hotadd-own-disks.rules /home/hotadd-admin/.ssh/authorized_keys /etc/shadow /boot/grub2/user.cfg | grep -o '[a-z_]*_t' | xargs)" \
    "bin_t etc_t var_lib_t udev_rules_t ssh_home_t shadow_t boot_t"
}
refusals_labels() {
  sed -i s/enforcing/permissive/ "$R/etc/selinux/config"
  refuses "a permissive system" 'SELinux is not enforcing'
}
