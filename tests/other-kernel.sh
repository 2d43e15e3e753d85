#!/bin/sh
# Runs guests of the test suite under another kernel, on an emulated processor that has protection keys:
#
#   tests/other-kernel.sh KERNEL [FILTER…]     FILTER: as for cargo test
#
# KERNEL: linux-image-…-amd64, as apt knows it, or the path of a bzImage of your own that needs no modules (CONFIG_VIRTIO_PCI,
# CONFIG_9P_FS, CONFIG_NET_9P_VIRTIO, CONFIG_OVERLAY_FS, CONFIG_DEVTMPFS, CONFIG_TMPFS), for options that Debian leaves out.
# Needs qemu-system-x86, busybox-static, kmod, cpio and xz-utils; no root. The virtual machine sees this one's files, and what it
# writes it writes to its own memory. A test takes some ten times as long as otherwise.
set -eu
package=$1
shift
[ $# -gt 0 ] || set -- ::generations
case $package in */*) package=$(realpath "$package") ;; esac
cd "$(dirname "$0")/.."
work=$PWD/target/other-kernel/$(basename "$package")
mkdir -p "$work"

modules=
case $package in
    */*) kernel=$package ;;
    *)
        if [ ! -d "$work/boot" ]; then
            (cd "$work" && apt-get download "$package" && dpkg -x "$package"_*.deb .)
        fi
        kernel=$(echo "$work"/boot/vmlinuz-*)
        version=${kernel##*/vmlinuz-}
        modules=$work/lib/modules/$version
        PATH=$PATH:/usr/sbin:/sbin
        depmod -b "$work" "$version"
        ;;
esac

# The first file system: what is needed to mount the files of this machine.
first=$work/first
rm -rf "$first"
mkdir -p "$first/bin" "$first/modules" "$first/proc" "$first/sys" "$first/dev" "$first/below" "$first/above" "$first/root"
cp /bin/busybox "$first/bin/"
for module in virtio_pci 9pnet_virtio 9p overlay; do
    [ -n "$modules" ] || break
    # Each with what it needs, which modules.dep lists last first.
    line=$(grep -E "/$module\.ko(\.xz)?:" "$modules/modules.dep") || continue
    echo "${line#*: } ${line%%:*}" | awk '{ for (i = NF - 1; i > 0; i--) print $i; print $NF }'
done | awk '!seen[$0]++' | while read -r file; do
    name=$(basename "$file" .xz)
    case $file in
        *.xz) xz -dc "$modules/$file" > "$first/modules/$name" ;;
        *.ko) cp "$modules/$file" "$first/modules/$name" ;;
    esac
    echo "$name" >> "$first/modules/list"
done
cat > "$first/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev
if [ -f /modules/list ]; then
    while read -r module; do insmod "/modules/$module"; done < /modules/list
fi
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 files /below
mount -t tmpfs -o size=60% above /above && mkdir /above/upper /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/upper,workdir=/above/work root /root
mount -t proc proc /root/proc && mount -t sysfs sys /root/sys && mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm /root/dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /root/dev/pts
mount -t mqueue mqueue /root/dev/mqueue
for place in /root/dev/shm /root/tmp /root/run; do mount -t tmpfs -o mode=1777 tmp $place; done
ip link set lo up
umount /proc /sys
. /job
if [ -n "$modules" ]; then
    mkdir -p "/root/usr/lib/modules/$(uname -r)" && mount --bind "/root$modules" "/root/usr/lib/modules/$(uname -r)"
fi
exec switch_root /root /bin/sh "$script"
INIT
chmod +x "$first/init"

guests=$(cargo test --no-run --test guests 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
programs=$(dirname "$(dirname "$guests")")
script=$work/script.sh
printf 'modules=%s script=%s\n' "$modules" "$script" > "$first/job"
cat > "$script" <<SCRIPT
cd '$PWD'
ulimit -n 20000
# Written to in the machine's own memory, they are its own from now on.
find tests '$programs'/ckpt '$programs'/ckpt-* '$guests' -type f -exec touch {} +
chown -R $(id -u) '$programs'/ckpt*
setpriv --reuid $(id -u) --regid $(id -g) --clear-groups --inh-caps=-all env CARGO_MANIFEST_DIR='$PWD' HOME=/tmp \
    PATH=/usr/local/bin:/usr/bin:/bin CKPT_TEST_DEADLINE=300 '$guests' $* > /dev/ttyS0 2>&1
echo "status \$?" > /dev/ttyS0
echo o > /proc/sysrq-trigger
sleep 60
SCRIPT
(cd "$first" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/first.img"

exec qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "${CKPT_VM_MEMORY:-8G}" -nographic -no-reboot -nic none \
    -kernel "$kernel" -initrd "$work/first.img" -append "console=ttyS0 quiet panic=-1" \
    -virtfs local,path=/,mount_tag=files,security_model=none,readonly=on,multidevs=remap < /dev/null
