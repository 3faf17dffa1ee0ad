// What was answered and not yet acknowledged, in IndexedDB: it survives a reload, a crash and a server that is away.

const NAME = "evlm-ratings";

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("sent", { keyPath: "at", autoIncrement: true });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function run(database, mode, work) {
  return new Promise((resolve, reject) => {
    const change = database.transaction("sent", mode, { durability: "strict" });
    const request = work(change.objectStore("sent"));
    change.oncomplete = () => resolve(request.result);
    change.onerror = change.onabort = () => reject(change.error);
  });
}

// send(path, body) -> {status, data}; it throws where the server cannot be reached.
export class Outbox {
  constructor(rater, send, tell) {
    Object.assign(this, { rater, send, tell, memory: [], busy: null, again: false, wait: 500 });
    this.database = open().catch(() => null); // without one (private windows) what waits is lost with the tab
  }

  async waiting() {
    const database = await this.database;
    const all = database ? await run(database, "readonly", (store) => store.getAll()) : this.memory;
    return all.filter((each) => each.rater === this.rater);
  }

  // Done when it is kept (the transaction is committed), not when it is sent: `flush` sends.
  async add(path, body) {
    const database = await this.database;
    const entry = { rater: this.rater, path, body };
    if (database) await run(database, "readwrite", (store) => store.add(entry));
    else this.memory.push({ ...entry, at: Math.random() });
    this.tell((await this.waiting()).length, null);
  }

  // One at a time and in order; an answer of the server, yes or no, ends the matter, silence does not.
  flush() {
    this.again = true;
    this.busy ??= this.#work().finally(() => { this.busy = null; });
    return this.busy;
  }

  async #work() {
    while (this.again) {
      this.again = false;
      for (const entry of await this.waiting()) {
        this.tell((await this.waiting()).length, null);
        const answer = await this.#persist(entry);
        if (answer.status === 401) return;
        const database = await this.database;
        if (database) await run(database, "readwrite", (store) => store.delete(entry.at));
        else this.memory = this.memory.filter((each) => each.at !== entry.at);
        this.tell((await this.waiting()).length, answer, entry);
      }
    }
    this.tell((await this.waiting()).length, null);
  }

  async #persist(entry) {
    for (;;) {
      try {
        const answer = await this.send(entry.path, entry.body);
        if (answer.status < 500 && answer.status !== 429) {
          this.wait = 500;
          return answer;
        }
      } catch { /* the server is away */ }
      this.tell((await this.waiting()).length, { status: 0 });
      await new Promise((resolve) => setTimeout(resolve, this.wait));
      this.wait = Math.min(this.wait * 1.6, 5000);
    }
  }
}
