// Worker threads with messages, shared memory and Atomics; promises, timers, the thread pool (zlib, crypto) of the main one.
const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");
const { createHash, pbkdf2 } = require("crypto");
const { deflate } = require("zlib");
const { promisify } = require("util");

if (!isMainThread) {
    const counter = new Int32Array(workerData);
    parentPort.on("message", ({ n }) => {
        let x = n;
        for (let i = 0; i < 60000; i++) x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
        Atomics.add(counter, 0, 1);
        const text = Array.from({ length: 200 }, (_, i) => (x ^ i).toString(36)).join(" ");
        parentPort.postMessage({ n, hash: createHash("sha1").update(text).digest("hex"), text });
    });
    return;
}

const steps = Number(process.argv[2]);
const shared = new SharedArrayBuffer(4);
const workers = Array.from({ length: 3 }, () => new Worker(__filename, { workerData: shared }));
const ask = (worker, n) =>
    new Promise((resolve) => {
        worker.once("message", resolve);
        worker.postMessage({ n });
    });

(async () => {
    const fs = require("fs");
    for (let step = 0; step < steps; step++) {
        const answers = await Promise.all(workers.map((w, i) => ask(w, step * workers.length + i)));
        const packed = await promisify(deflate)(answers.map((a) => a.text).join("\n"));
        const key = await promisify(pbkdf2)(answers[0].hash, "salt", 200, 8, "sha256");
        await new Promise((resolve) => setTimeout(resolve, 1));
        const hashes = answers.map((a) => a.hash.slice(0, 8)).join(" ");
        fs.writeSync(1, `${step} ${hashes} ${packed.length} ${key.toString("hex")}\n`);
    }
    await Promise.all(workers.map((w) => w.terminate()));
    fs.writeSync(1, `jobs ${Atomics.load(new Int32Array(shared), 0)}\n`);
})();
