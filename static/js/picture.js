// The picture of the profile: choosing the square of it that is shown, and how far it has been sent. Without this file, the
// whole file is sent, and the server cuts the square out of its centre.
"use strict";

(() => {
  const SIDE = 512; // pixels of what is sent: twice what the server makes of it
  const KEY_STEP = 0.05; // of the square
  const input = () => document.getElementById("avatar");
  const crop = () => document.getElementById("crop");
  const view = () => crop().querySelector("canvas");
  const slider = () => crop().querySelector("input");

  let picture = null; // as the browser has decoded it, upright
  let name = ""; // of the file that was chosen
  let zoom = 1;
  let latest = 0; // number of the last change: answers to earlier ones do not count
  let centre = { x: 0, y: 0 }; // of the square, in pixels of the picture
  const side = () => Math.min(picture.width, picture.height) / zoom;

  const draw = (canvas) => {
    const half = side() / 2;
    centre.x = Math.min(Math.max(centre.x, half), picture.width - half);
    centre.y = Math.min(Math.max(centre.y, half), picture.height - half);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, centre.x - half, centre.y - half, 2 * half, 2 * half, 0, 0, canvas.width, canvas.height);
  };

  const saveButton = () => document.querySelector("#profile-form .btn--primary");
  // A form cannot be saved until it is known what is to be sent. Returns the number of the change.
  const beginChange = () => {
    saveButton().disabled = true;
    latest += 1;
    return latest;
  };
  const endChange = () => { saveButton().disabled = false; };

  // What the form sends in place of the file that was chosen.
  const replaceFile = () => {
    const change = beginChange();
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = Math.max(1, Math.round(Math.min(SIDE, side())));
    draw(canvas);
    canvas.toBlob((blob) => {
      if (change !== latest) return;
      endChange();
      if (!blob) return; // the whole file stays
      const chosen = new DataTransfer();
      chosen.items.add(new File([blob], name, { type: blob.type }));
      input().files = chosen.files;
    }, "image/webp", 0.95); // as PNG in browsers that write no WebP
  };
  const update = () => {
    draw(view());
    replaceFile();
  };

  const show = () => {
    slider().value = zoom;
    crop().hidden = false;
    update();
  };

  document.addEventListener("change", async (event) => {
    if (event.target !== input()) return;
    const [file] = input().files;
    const change = beginChange();
    picture = null;
    crop().hidden = true;
    input().setCustomValidity("");
    const decoded = file && await createImageBitmap(file).catch(() => null);
    if (change !== latest) return;
    if (!decoded) { // none, or one that this browser cannot read, but the server may
      endChange();
      const { maxBytes, tooLarge } = input().dataset;
      input().setCustomValidity(file?.size > Number(maxBytes) ? tooLarge : "");
      input().reportValidity();
      return;
    }
    picture = decoded;
    name = file.name;
    zoom = 1;
    centre = { x: picture.width / 2, y: picture.height / 2 };
    show();
  });
  document.addEventListener("input", (event) => {
    if (!picture || event.target !== slider()) return;
    zoom = Number(slider().value);
    draw(view());
    beginChange();
  });
  document.addEventListener("change", (event) => { if (picture && event.target === slider()) replaceFile(); });

  const move = (x, y) => {
    centre.x += x;
    centre.y += y;
    draw(view());
  };
  document.addEventListener("pointerdown", (event) => {
    if (picture && event.target === view()) view().setPointerCapture(event.pointerId);
  });
  document.addEventListener("pointermove", (event) => {
    if (!picture || event.target !== view() || !view().hasPointerCapture(event.pointerId)) return;
    const scale = side() / view().clientWidth;
    move(-event.movementX * scale, -event.movementY * scale);
  });
  document.addEventListener("pointerup", (event) => { if (picture && event.target === view()) replaceFile(); });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!picture || !step || event.target !== view()) return;
    event.preventDefault();
    move(...step.map((each) => each * KEY_STEP * side()));
    replaceFile();
  });

  // A form that comes back with errors has lost its file. Whoever goes back to initials wants none.
  document.addEventListener("htmx:after:swap", (event) => {
    const { target } = event.detail.ctx;
    if (target?.id === "picture") {
      picture = null;
      beginChange();
      endChange();
    } else if (picture && input() && !input().files.length) show();
  });

  // Only XMLHttpRequest tells how much has been sent.
  const fetchWithProgress = (onProgress) => (url, { method, headers, body, signal }) => new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, url);
    Object.entries(headers).forEach((header) => request.setRequestHeader(...header));
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(loaded / total));
    request.addEventListener("load", () => {
      const lines = request.getAllResponseHeaders().trim().split("\r\n");
      const received = lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]);
      resolve(new Response(request.response, { status: request.status, headers: received }));
    });
    request.addEventListener("error", () => reject(new TypeError("network error")));
    request.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
    signal?.addEventListener("abort", () => request.abort());
    request.send(body);
  });
  const showProgress = (part) => {
    const progress = document.getElementById("avatar-progress");
    if (!progress) return;
    const { sending, reading } = progress.dataset;
    progress.hidden = part === null;
    progress.querySelector("progress").value = part ?? 0;
    progress.querySelector("output").textContent = part < 1 ? sending.replace("{}", Math.floor(100 * part)) : reading;
  };
  document.addEventListener("htmx:config:request", (event) => {
    const { ctx } = event.detail;
    if (ctx.sourceElement?.id === "profile-form" && input()?.files.length) ctx.fetch = fetchWithProgress(showProgress);
  });
  document.addEventListener("htmx:finally:request", (event) => {
    if (event.detail.ctx.sourceElement?.id === "profile-form") showProgress(null);
  });
})();
