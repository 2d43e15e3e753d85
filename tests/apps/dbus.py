# A private dbus-daemon, a service on it and clients that call it, each a process of its own.
import os
import re
import subprocess
import sys

rounds = int(sys.argv[1])
daemon = subprocess.Popen(
    ["dbus-daemon", "--session", "--nofork", "--print-address=1", f"--address=unix:path={os.getcwd()}/bus"],
    stdout=subprocess.PIPE, text=True)
os.environ["DBUS_SESSION_BUS_ADDRESS"] = daemon.stdout.readline().strip()
monitor = subprocess.Popen(["dbus-monitor", "--session", "interface='org.example.Ckpt'"], stdout=open("seen", "w"))


def call(*args):
    return subprocess.run(["dbus-send", "--session", *args], capture_output=True, text=True, check=True).stdout


while "NameAcquired" not in open("seen").read():
    os.sched_yield()
names = 'array of string|"org.freedesktop.DBus"'
for i in range(rounds):
    call("--type=signal", "/step", "org.example.Ckpt.Step", f"int32:{i}", f"string:{'x' * (i % 50)}")
    answer = call("--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.ListNames")
    print(i, len(re.findall('string "org.freedesktop.DBus"', answer)), flush=True)
while f"int32 {rounds - 1}" not in open("seen").read():
    os.sched_yield()
monitor.terminate()
monitor.wait()
seen = open("seen").read()
print(re.findall("int32 ([0-9]+)", seen) == [str(i) for i in range(rounds)])
daemon.terminate()
daemon.wait()
