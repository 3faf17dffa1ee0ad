// What cached nodes showed, from the history of earlier runs.

/**
 * The output of a node in the newest of earlier runs in which it ran as it stands in this graph, itself and all
 * before it; undefined if there is none.
 *
 * history: as /history answers, prompt id -> { prompt, outputs }, oldest first. graph: id -> { class_type, inputs }.
 */
export function earlierOutput(history, graph, id) {
  const needed = before(graph, id)
  const isSame = (other) => needed.every((each) => said(other?.[each]) === said(graph[each]))
  const runs = Object.values(history ?? {}).reverse()
  return runs.find((run) => run?.outputs?.[id] && isSame(run.prompt?.[2]))?.outputs[id]
}

/** The ids of a node and of all that it is made from. */
function before(graph, id) {
  const found = new Set([id])
  for (const each of found) {
    for (const value of Object.values(graph[each]?.inputs ?? {})) {
      if (Array.isArray(value) && typeof value[0] === "string" && graph[value[0]]) found.add(value[0])
    }
  }
  return [...found]
}

function said(node) {
  return JSON.stringify([node?.class_type, node?.inputs])
}
