// A node HTTP server and its clients in a worker thread, over kept-alive connections.
const { Worker, isMainThread, workerData, parentPort } = require("worker_threads");
const http = require("http");
const crypto = require("crypto");

const hash = (text) => crypto.createHash("sha256").update(text).digest("hex");
const rounds = Number(process.argv[2]);

if (isMainThread) {
    let served = 0;
    const server = http.createServer((request, response) => {
        const parts = [];
        request.on("data", (part) => parts.push(part));
        request.on("end", () => response.end(JSON.stringify({ served: ++served, hash: hash(Buffer.concat(parts)) })));
    });
    server.keepAliveTimeout = 0;
    server.listen(0, "127.0.0.1", () => {
        const worker = new Worker(__filename, { workerData: server.address().port, argv: process.argv.slice(2) });
        worker.on("message", (line) => console.log(line));
        worker.on("error", (error) => { console.log(error); process.exit(1); });
        worker.on("exit", () => { console.log("served", served); server.close(); server.closeAllConnections(); });
    });
} else {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
    const ask = (body) => new Promise((resolve, reject) => {
        const request = http.request({ port: workerData, host: "127.0.0.1", method: "POST", agent }, (response) => {
            let text = "";
            response.on("data", (part) => (text += part));
            response.on("end", () => resolve(JSON.parse(text)));
        });
        request.on("error", reject);
        request.end(body);
    });
    (async () => {
        for (let i = 0; i < rounds; i++) {
            const bodies = Array.from({ length: 16 }, (_, n) => `${i} ${n} `.repeat(1 + ((i * 37 + n) % 2000)));
            const answers = await Promise.all(bodies.map(ask));
            for (let n = 0; n < 16; n++)
                if (answers[n].hash !== hash(bodies[n])) throw new Error(`answer ${i} ${n} is wrong`);
            parentPort.postMessage(`${i} ${Math.max(...answers.map((a) => a.served))}`);
        }
        agent.destroy();
    })();
}
