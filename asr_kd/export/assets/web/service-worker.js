// Keeps the page and the model in the browser, so that it works without a network after the first load.
const VERSION = "@VERSION@";
const FILES = @FILES@;

addEventListener("install", (event) => {
  // "reload": not from the browser's cache, which may hold files of an earlier version.
  const requests = FILES.map((file) => new Request(file, { cache: "reload" }));
  event.waitUntil(caches.open(VERSION).then((cache) => cache.addAll(requests)).then(() => skipWaiting()));
});

addEventListener("activate", (event) => {
  const old = async () => {
    for (const name of await caches.keys()) if (name.startsWith("asr-kd-") && name !== VERSION) await caches.delete(name);
    await clients.claim();
  };
  event.waitUntil(old());
});

addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith(caches.match(event.request, { ignoreSearch: true, cacheName: VERSION }).then((found) => found ?? fetch(event.request)));
});
