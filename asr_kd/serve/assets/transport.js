// How the page reaches a recognizer: here a websocket to the server that it came from. A page without a server has
// another file of this name, whose connections have the same members and messages.

export async function modelName() {
  const answer = await fetch("health");
  return (await answer.json()).model;
}

export function connect() {
  return new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/stream`);
}
